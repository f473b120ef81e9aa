"""Rules of a path that is given in place of a module: what is said of it works as it is written."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from serving import clean_environment

APP = """
def application(environ, start_response): ...
def other(environ, start_response): ...
def make(word): return other
"""
PACKAGED = "from shop import name\n" + APP


FILES = "' is a directory; write trio-wsgi files {0} for its files, MODULE:APP for an application"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A script, one by the name that mod_wsgi gives it, and a module of a package; some beside us, some elsewhere."""
    for folder in (tmp_path, tmp_path / "far away"):
        folder.mkdir(exist_ok=True)
        for name in ("site.wsgi", "shop_app.py", "run"):
            (folder / name).write_text(APP)
        (folder / "shop").mkdir()
        (folder / "shop" / "__init__.py").write_text("name = 'shop'\n" + APP)
        (folder / "shop" / "wsgi.py").write_text(PACKAGED)
    return tmp_path


def check(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the command says of the application that these words of a shell name."""
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m trio_wsgi --check-config {words}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean_environment(),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "link", "instead"),
    [
        ("shop_app.py:other", "", "shop_app:other"),
        ("./shop_app.py", "", "shop_app"),
        ("'shop_app.py:make(1)'", "", "'shop_app:make(1)'"),
        ("'far away/shop_app.py:other'", "", "--chdir '{site}/far away' shop_app:other"),
        ("shop/wsgi.py", "", "shop.wsgi"),
        ("shop/", "", "shop"),
        ("'{site}/far away/shop/wsgi.py:other'", "", "--chdir '{site}/far away' shop.wsgi:other"),
        ("site.wsgi", "ln -s site.wsgi {site}/site_wsgi.py", "site_wsgi"),
        (
            "'{site}/far away/site.wsgi:other'",
            "ln -s site.wsgi '{site}/far away/site_wsgi.py'",
            "--chdir '{site}/far away' site_wsgi:other",
        ),
        ("./run", "ln -s run {site}/run.py", "run"),
    ],
)
def test_a_path_is_answered_with_words_that_work(words: str, link: str, instead: str, site: Path) -> None:
    """They keep the attribute that was given, and make up none."""
    link, instead = link.format(site=site), instead.format(site=site)
    said = check(words.format(site=site), site)
    assert said.returncode == 4
    _, _, told = said.stderr.rpartition(" is a path")
    assert told == (f", and Python imports only .py; {link}, then" if link else ";") + f" write the module: {instead}\n"
    subprocess.run(["sh", "-c", link], cwd=site, check=True)
    said = check(instead, site)
    assert (said.returncode, said.stderr) == (0, "")
    assert f"application: {instead.split()[-1].strip(chr(39))} is a builtins.function" in said.stdout


@pytest.mark.parametrize("name", [".", "..", "./", "/tmp", "far away", "here", "./here", "./here/"])
def test_a_directory_is_answered_with_the_command_for_its_files(name: str, site: Path) -> None:
    """Unless it is a package: Python would take any for one."""
    (site / "here").mkdir()
    (site / "shop" / "__init__.py").write_text("")
    said = check(shlex.quote(name), site)
    assert said.returncode == 4
    assert said.stderr == f"trio-wsgi: error: '{name}{FILES.format(shlex.quote(name))}\n"
    said = check("shop", site)
    assert said.stderr == "trio-wsgi: error: module 'shop' has neither application nor app; write shop:NAME\n"


@pytest.mark.parametrize("name", ["uwsgi.ini", "./uwsgi.ini", "{site}/uwsgi.ini"])
def test_a_file_of_settings_is_told_from_a_module(name: str, site: Path) -> None:
    """uWSGI's name is given so on its own command line."""
    (site / "uwsgi.ini").write_text("[uwsgi]\nmodule = shop_app\n")
    said = check(name.format(site=site), site)
    assert said.returncode == 4
    assert said.stderr.endswith(
        "uwsgi.ini' is no Python; write --paste FILE for PasteDeploy's, and what is in uWSGI's as flags or TOML\n"
    )
