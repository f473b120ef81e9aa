"""What a run writes: nothing of an earlier one is lost, and what cannot be written is told before hours are spent."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import machine, run
from bench.samples import Samples


def measure(folder: Path, *words: str) -> int:
    """The least that there is to measure: a kilobyte by sendfile-loop."""
    (folder / "sample").write_bytes(bytes(1000))
    words += ("--only", "own-file-1", "--file", str(folder / "sample"), "--contestants", "sendfile-loop")
    return run.main([*words, "--rounds", "1", "--seconds", "0.2", "--files", str(folder / "samples")])


def test_results_of_an_earlier_run_are_kept_beside_those_of_a_new_one(tmp_path: Path) -> None:
    """`--quick` after hours of measuring writes to the same file, as the README's commands do."""
    output = tmp_path / "results.json"
    output.write_text("hours")
    assert measure(tmp_path, "--output", str(output)) == 0
    first = output.read_text()
    assert len(json.loads(first)["findings"]) == 1
    assert measure(tmp_path, "--output", str(output), "--add") == 0
    assert not (tmp_path / "results.json.2").exists()
    assert measure(tmp_path, "--output", str(output)) == 0
    assert (tmp_path / "results.json.1").read_text() == "hours"
    assert json.loads((tmp_path / "results.json.2").read_text())["settings"] == json.loads(first)["settings"]


def test_what_cannot_stand_in_one_table_is_not_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results.json"
    assert measure(tmp_path, "--output", str(output)) == 0
    before = output.read_bytes()
    assert measure(tmp_path, "--output", str(output), "--add", "--threads", "4") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (f"bench: --add: {output} has threads of each server 8, and this run 4; write to another --output")
    assert output.read_bytes() == before


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(tmp_path, "--output", str(tmp_path)) == 2
    assert f"--output {tmp_path} is a folder" in capsys.readouterr().err
    assert measure(tmp_path, "--output", "/proc/results.json") == 2
    assert capsys.readouterr().err.startswith("bench: --output /proc/results.json: ")
    (tmp_path / "samples").write_text("a file")
    assert measure(tmp_path, "--output", str(tmp_path / "results.json")) == 1
    assert capsys.readouterr().err.startswith("bench: cannot go on: ")


def test_runs_at_the_same_time_have_each_its_own_file(tmp_path: Path) -> None:
    """They share the folder of samples, which has nothing of theirs afterwards."""
    samples = Samples(tmp_path / "samples")
    for number in range(2):
        (tmp_path / f"file-{number}").write_text(str(number))
    with samples.adopt(tmp_path / "file-0") as zero, samples.adopt(tmp_path / "file-1") as one:
        assert [samples.path(name).read_text() for name in (zero, one)] == ["0", "1"]
    assert measure(tmp_path, "--output", str(tmp_path / "results.json")) == 0
    assert list(samples.folder.iterdir()) == []


def test_runs_that_make_the_same_sample_do_not_meet(tmp_path: Path) -> None:
    """Each makes its own, and whoever is last has put an equal one in the place of the others."""
    samples, alone = Samples(tmp_path / "samples"), Samples(tmp_path / "alone")
    with ThreadPoolExecutor(4) as makers:
        assert len(set(makers.map(samples.path, ["10m"] * 4))) == 1
    assert samples.digest("10m") == alone.digest("10m")
    assert [path.name for path in samples.folder.iterdir()] == ["10m"]


def test_a_file_that_goes_while_it_is_measured_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.iso").write_text("mine")
    with Samples(tmp_path / "samples").adopt(tmp_path / "mine.iso") as name:
        (tmp_path / "mine.iso").unlink()
        with pytest.raises(FileNotFoundError, match=r"it has gone: '.*/mine\.iso'"):
            Samples(tmp_path / "samples").path(name)


def test_a_run_in_which_all_fail_says_so_to_the_shell(tmp_path: Path) -> None:
    """What was asked for is not there."""
    words = ["--only", "own-app-1", "--app", "bench.app:app", "--target", "/nothing", "--contestants", "trio-wsgi"]
    words += ["--rounds", "1", "--seconds", "0.2", "--files", str(tmp_path), "--output", str(tmp_path / "results.json")]
    assert run.main(words) == 1
    assert json.loads((tmp_path / "results.json").read_text())["findings"][0]["failure"].endswith(
        "status 404 instead of 200"
    )


def test_the_interpreter_named_is_that_of_the_servers(tmp_path: Path) -> None:
    """`--venv` may be of another Python than the bench's own."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\ncase \"$2\" in *metadata*) echo '{}';; *) echo OtherPython 9.9;; esac\n")
    python.chmod(0o755)
    output = tmp_path / "results.json"
    assert measure(tmp_path, "--output", str(output), "--venv", str(tmp_path / "venv")) == 0
    assert json.loads(output.read_text())["machine"]["Python"] == "OtherPython 9.9"


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        (
            {"cpu.max": "150000 100000", "memory.max": "536870912"},
            {"cores by quota": "1.5", "memory by limit": "0.5 GiB"},
        ),
        ({"cpu.max": "max 100000", "memory.max": "max"}, {}),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, {"cores by quota": "1"}),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "1", "memory/memory.limit_in_bytes": f"{2**63}"}, {}),
        ({}, {}),
    ],
    ids=["v2", "v2-max", "v1", "v1-none", "nothing"],
)
def test_what_a_container_may_use_is_told(
    tmp_path: Path, files: dict[str, str], limits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cores of the machine say little where a quota gives one of them."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.read_container_limits() == limits


def test_what_is_to_be_warm_is_mapped_while_it_is_measured(tmp_path: Path) -> None:
    """Else a kernel that reclaims what nobody maps (DAMON) evicts it in the midst of a window, as was seen."""
    samples = Samples(tmp_path / "samples")

    def is_mapped() -> bool:
        return str(samples.path("100k")) in Path("/proc/self/maps").read_text()

    with samples.hold(["100k"]):
        assert is_mapped()
    assert not is_mapped()
