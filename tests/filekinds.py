"""Open files of many kinds, with the content of one that lies at a path."""

from __future__ import annotations

import gzip
import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar


class Noted(io.BufferedReader):
    """A file whose close is the application's own code; in which threads that ran."""

    closed_in: ClassVar[list[str]] = []

    def close(self) -> None:
        if not self.closed:
            self.closed_in.append(threading.current_thread().name)
        super().close()


def gzipped(path: Path) -> Any:
    """Its `fileno` is that of the packed bytes."""
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    return gzip.open(path.with_suffix(".gz"))


def zipped(path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Any:
    """With ZIP_STORED its bytes are in the file, in the middle of it."""
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", compression) as archive:
        archive.write(path, "data")
    return zipfile.ZipFile(path.with_suffix(".zip")).open("data")


def rewound(make: Callable[..., Any], *arguments: Any) -> Callable[[Path], Any]:
    """What makes a temporary file, written and at its beginning again."""

    def made(path: Path) -> Any:
        file = make(*arguments)
        file.write(path.read_bytes())
        file.seek(0)
        return file

    return made
