"""Which file a descriptor stands for: as fstat(2) has it, and without asking a server that may be gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sendfile import identity
from sendfile.identity import identify


@pytest.mark.parametrize("statx", [True, False], ids=["statx", "no statx"])
@pytest.mark.parametrize("name", ["/", "/dev/null", "/proc/version", "/dev/shm", __file__])
def test_as_fstat_has_it(name: str, statx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not statx:
        monkeypatch.setattr(identity, "_statx", None)
    if not Path(name).exists():
        pytest.skip("not on this system")
    fd = os.open(name, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        assert identify(fd) == (status.st_dev, status.st_ino)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        identify(fd)
