"""Make the sample files of the demo: `python make_files.py DIRECTORY`.

One is large (1 GiB, sparse: it takes no room on most file systems), one is random (so that a transfer that
mixes up bytes is noticed), two are small, one of them with a name outside ASCII. Their checksums go to
SHA256SUMS, which is written last, in the format that `sha256sum --check` reads.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

MIB = 1024 * 1024


def make_big(path: Path, size: int = 1024 * MIB) -> None:
    """A hole of `size` bytes with a word at each end, to see that both arrived."""
    first, last = b"first bytes of a large file\n", b"last bytes of a large file\n"
    with path.open("wb") as file:
        file.write(first)
        file.truncate(size)
        file.seek(size - len(last))
        file.write(last)


def make_random(path: Path, size: int = 10 * MIB) -> None:
    path.write_bytes(os.urandom(size))


def make_text(path: Path) -> None:
    path.write_text("A small file, so small that its head is longer than its body.\n", encoding="utf-8")


MAKERS = {
    "big.bin": make_big,
    "random.bin": make_random,
    "small.txt": make_text,
    "Grüße aus Köln.txt": make_text,
}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    sums = []
    for name, make in MAKERS.items():
        make(directory / name)
        with (directory / name).open("rb") as file:
            sums.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    (directory / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the directory to make them in: python examples/demo/make_files.py DIR")
    main(Path(sys.argv[1]))
