"""The real disk: what it tells of a file's bytes, and how it brings them into memory."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
from faults import no_descriptor_left

from sendfile.disk import Disk


def test_a_file_system_that_cannot_tell(tmp_path: Path) -> None:
    """preadv2(2): EOPNOTSUPP where the file system has no RWF_NOWAIT. A pipe stands for it, with ESPIPE."""
    here, there = os.pipe()
    try:
        assert Disk().probe(here, 0) is None
    finally:
        os.close(here)
        os.close(there)
    with (tmp_path / "empty").open("w+b") as file:
        assert Disk().probe(file.fileno(), 100) in (True, None), "beyond the end: sending tells, at once"


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.ENOTSOCK, errno.EMFILE])
def test_a_fetch_brings_it_into_memory(code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sendfile(2) to /dev/null, or by reading where that cannot be had, or cannot be opened."""
    if code in (errno.EINVAL, errno.ENOTSOCK):

        def sendfile(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "sendfile", sendfile)
    with (tmp_path / "cold").open("w+b", buffering=0) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with no_descriptor_left() if code == errno.EMFILE else contextlib.nullcontext():
            Disk().fetch(file.fileno(), 0, 1 << 20)
        Disk().fetch(file.fileno(), 1 << 19, 1 << 20)  # beyond the end: no error, and an end
        for offset in range(0, 1 << 20, 1 << 17):
            assert Disk().probe(file.fileno(), offset) in (True, None)
