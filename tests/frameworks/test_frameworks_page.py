"""docs/frameworks.md (PAINS 20): its programs are started by its commands, and answer as it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest
from serving import clean_environment, command

import trio_wsgi

PAGE = (Path(trio_wsgi.__file__).parent.parent / "docs" / "frameworks.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
SCRIPTS = Path(sysconfig.get_path("scripts"))
PROGRAMS = {  # how the page's commands are started by the Python that runs the tests
    "trio-wsgi": ("-m", "trio_wsgi"),
    "python": (),
    "flask": (str(SCRIPTS / "flask"),),  # as scripts: `-m` would put the working directory on the import path
    "pserve": (str(SCRIPTS / "pserve"),),
}
VARIABLE = re.compile(r"([A-Z]+)=(.*)")  # before a command


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)


def starts() -> list[tuple[str, str]]:
    """Each command of the page that starts a server, with its section."""
    return [
        (section, line)
        for section in SECTIONS
        for console in blocks(section, "console")
        for line in re.findall(r"^\$ (.*)$", console, re.MULTILINE)
        if not line.startswith("curl ")
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("report") / "report.bin"
    (line,) = re.findall(r"^\$ (.*)$", PAGE.partition("\n## ")[0], re.MULTILINE)
    subprocess.run(line, shell=True, cwd=path.parent, check=True, timeout=60)
    return path, path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("section", "line"), starts())
def test_a_program_of_the_page(section: str, line: str, report: tuple[Path, bytes], tmp_path: Path) -> None:
    (tmp_path / "report.bin").symlink_to(report[0])
    if section == "Django":
        subprocess.run([sys.executable, "-m", "django", "startproject", "shop", tmp_path], check=True, timeout=60)
        with (tmp_path / "shop" / "settings.py").open("a") as file:
            (added,) = re.findall(r"`(INSTALLED_APPS .*?)`", SECTIONS[section])
            file.write(added)
    for block in blocks(section, "python") + blocks(section, "ini"):
        (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
    words = shlex.split(line)
    environ = {"TRIO_WSGI_BIND": "127.0.0.1:0"}
    while variable := VARIABLE.fullmatch(words[0]):
        environ[variable[1]] = os.pathsep.join([variable[2], clean_environment()[variable[1]]])  # this checkout, too
        del words[0]
    with command(*words[1:], cwd=tmp_path, program=PROGRAMS[words[0]], **environ) as running:
        url = f"{running.url}/report"
        assert httpx.get(url).status_code == 403
        whole = httpx.get(f"{url}?token=open-sesame")
        assert (whole.status_code, whole.content) == (200, report[1])
        part = httpx.get(f"{url}?token=open-sesame", headers={"Range": "bytes=1000000-1000015"})
        assert part.content == report[1][1_000_000:1_000_016]
        (console,) = blocks(section, "console")
        assert f"HTTP/1.1 206 {part.reason_phrase}\n" in console
        assert f"Content-Range: {part.headers['content-range']}\n" in console
        assert "read through Python" not in running.log  # both left by sendfile


def test_every_framework_has_its_commands() -> None:
    assert set(SECTIONS) == {"Django", "Flask", "Falcon", "Bottle", "Pyramid and PasteDeploy"}
    assert len(starts()) == 8
