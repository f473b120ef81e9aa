"""The tests leave nothing behind in the directory for temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TEST = "from authority import shared_authority\n\ndef test() -> None:\n    shared_authority()\n"
ENDS_AT_ONCE = "import os\n\ndef pytest_unconfigure() -> None:\n    os._exit(0)\n"


def test_the_shared_authority_is_removed_though_the_process_ends_by_a_signal(tmp_path: Path) -> None:
    """pytest-xdist ends its processes so, when they take long to end; atexit does not hear of it."""
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "ends_at_once.py").write_text(ENDS_AT_ONCE)
    (tmp_path / "temporary").mkdir()
    path = os.pathsep.join([str(Path(__file__).parent), str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "temporary")}
    plugins = ("-p", "conftest", "-p", "ends_at_once", "-p", "no:cacheprovider", "-p", "no:xdist")
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", str(tmp_path), "test_it.py"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert list((tmp_path / "temporary").glob("trio-wsgi-*")) == []
