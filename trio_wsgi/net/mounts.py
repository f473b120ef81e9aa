"""The directories of `--static` and `--accel`, opened for as long as the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from trio_wsgi.config import Config
from trio_wsgi.disk.accel import AccelMap
from trio_wsgi.disk.mount import Mount, MountOptions
from trio_wsgi.disk.root import Root
from trio_wsgi.errors import ConfigError
from trio_wsgi.rules.fileanswer import FileOptions


@dataclass(frozen=True, slots=True)
class Directories:
    """What the server may serve from.

    Args:
        mounts: the ones with the longest URL first.
        accel: where the app may name files; None when it may not.
    """

    mounts: tuple[Mount, ...]
    accel: AccelMap | None


@contextmanager
def open_directories(config: Config) -> Iterator[Directories]:
    """Open all of them; closed when the block is left.

    Raises:
        ConfigError: one is not there or cannot be read.
    """
    options = MountOptions(
        index=config.static_index,
        expires=config.static_expires,
        listing=config.static_listing,
        files=file_options(config),
    )
    with ExitStack() as stack:

        def open_root(setting: str, text: str) -> tuple[bytes, Root]:
            prefix, _, path = text.partition("=")
            try:
                root = Root(path, config.follow_symlinks)
            except OSError as exc:
                raise ConfigError(setting, f"{text!r}: {path}: {exc.strerror}", "name a directory") from exc
            stack.callback(root.close)
            return prefix.encode(), root

        static = [open_root("static", text) for text in config.static]
        accel = [open_root("accel", text) for text in config.accel]
        yield Directories(
            mounts=tuple(Mount(prefix, root, options) for prefix, root in sorted(static, key=_longest_first)),
            accel=AccelMap(sorted(accel, key=_longest_first)) if accel else None,
        )


def file_options(config: Config) -> FileOptions:
    """What the operator allows for files."""
    return FileOptions(config.max_ranges if config.allow_ranges else 0, config.file_validators)


def _longest_first(pair: tuple[bytes, Root]) -> int:
    return -len([segment for segment in pair[0].split(b"/") if segment])  # of two that match, one lies in the other
