"""The files that are served, the certificate, and what they must arrive as.

Laws:
- A sample is made once, whole or not at all, and kept for the next run; its content follows from its name.
- Those that are to be warm are held in memory; those that are to be cold are not.
- A user's own file is among them as long as its run lasts, under a name that no other run has.
- Everybody may read them: servers that start as root serve as somebody else.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import mmap
import os
import random
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SIZES = {"100k": 100 << 10, "1m": MIB, "10m": 10 * MIB, "1g": 1 << 30} | {f"cold-{n:02}": 64 * MIB for n in range(16)}
COLD = tuple(name for name in SIZES if name.startswith("cold-"))


@dataclass(frozen=True, slots=True)
class Samples:
    """A folder of sample files, made when they are asked for."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file, which is made if need be.

        Raises:
            FileNotFoundError: it is the user's own, and has gone.
        """
        path = self.folder / name
        if not self.has(name):
            if name not in SIZES:
                raise FileNotFoundError(errno.ENOENT, "it has gone", str(path.readlink()))
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o755)
            make_file(path, SIZES[name])
        return path

    def has(self, name: str) -> bool:
        """Whether it has been made."""
        return (self.folder / name).exists()

    def length(self, name: str) -> int:
        return self.path(name).stat().st_size

    def digest(self, name: str) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return digest_file(self.path(name))

    def digest_part(self, name: str, start: int, length: int) -> str:
        """SHA-256 of a part of the file, in hexadecimal."""
        with self.path(name).open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(length)).hexdigest()

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[None]:
        """Keep files in memory while the block runs, by mapping them.

        What is only sent may count as unused, and be evicted in the midst of a window, where the kernel reclaims such
        pages before anybody needs them (Linux, Documentation/admin-guide/mm/damon).
        """
        populate: int = getattr(mmap, "MAP_POPULATE", 0)  # Linux
        with ExitStack() as stack:
            for name in names:
                with self.path(name).open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | populate, prot=mmap.PROT_READ)
                stack.enter_context(mapped)
            yield

    @contextmanager
    def adopt(self, path: Path | None) -> Iterator[str]:
        """Put a user's own file, if there is one, among the samples while the block runs: its name here, or "".

        Another run that shares the folder has another name for its file.
        """
        if path is None:
            yield ""
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        link = self.folder / f"own-{secrets.token_hex(8)}"
        try:
            link.symlink_to(path.resolve(strict=True))
            yield link.name
        finally:
            link.unlink(missing_ok=True)


@functools.cache
def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_file(path: Path, size: int) -> None:
    """Random bytes, the same each time: a mebibyte again and again, each with its number in front."""
    block = random.Random(path.name).randbytes(MIB)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # another run may be making it as well
    try:
        with unfinished.open("wb") as file:
            for number in range(-(-size // MIB)):
                file.write((number.to_bytes(8, "big") + block[8:])[: size - number * MIB])
            file.flush()
            os.fsync(file.fileno())  # what is dirty cannot be dropped from the page cache
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def make_certificate(folder: Path) -> tuple[Path, Path] | None:
    """A self-signed certificate for localhost and its key (PKCS#8), by openssl.

    Returns:
        their files, or None where there is no openssl.
    """
    program = shutil.which("openssl")
    if program is None:
        return None
    cert, key = folder / "cert.pem", folder / "key.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    subprocess.run([program, *request, "-out", cert, "-keyout", key], check=True, capture_output=True, timeout=60)
    key.chmod(0o644)  # a throw-away key, which servers that drop root must read
    return cert, key
