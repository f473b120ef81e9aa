"""The questions to a file's bytes that may take a disk's time: are they in memory, and get them there.

Laws:

* Only ``fetch``, ``read`` and ``is_in_memory`` wait for the disk, and are called in a thread.
* A lack of descriptors fails none.
"""

from __future__ import annotations

import errno
import os

from sendfile.identity import file_system_type, identify

_IN_MEMORY = {0x01021994, 0x858458F6, 0x958458F6}  # types of tmpfs, ramfs, hugetlbfs
_SCRAP = [bytearray(1)]  # what a look reads into
_COPY = 256 << 10  # bytes read at once, where they cannot be spliced
# EPERM: a sandbox that forbids the call (seccomp(2)); where it is the file's, reading says so again.
_CANNOT_SPLICE = frozenset({errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTSOCK})
_CANNOT_TELL = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE})


class Disk:
    """The questions to a file's bytes. Tests answer them otherwise."""

    def device(self, fd: int) -> int:
        """Of the file system; never waits for it."""
        return identify(fd)[0]

    def is_in_memory(self, fd: int) -> bool:
        """Whether the file system has all bytes in memory, or swapped out; may wait for it, so call it in a thread."""
        return file_system_type(fd) in _IN_MEMORY

    def probe(self, fd: int, offset: int) -> bool | None:
        """Whether the byte at ``offset`` is in memory (or beyond the end); None where nobody can tell.

        Spec: preadv2(2), RWF_NOWAIT.
        """
        try:
            os.preadv(fd, _SCRAP, offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except AttributeError:  # not Linux
            return None
        except OSError as error:
            # Any other error of reading is sendfile's to meet and to tell.
            return None if error.errno in _CANNOT_TELL else True
        return True

    def fetch(self, fd: int, offset: int, count: int, kernel: bool = True) -> None:
        """Bring bytes into memory; blocks, so call it in a thread. OSError if they cannot be read.

        Args:
            kernel: False does it without sendfile(2), as for sending.
        """
        end = offset + count
        if kernel and _splice(fd, offset, end):
            return
        while offset < end and hasattr(os, "pread") and (data := os.pread(fd, min(end - offset, _COPY), offset)):
            offset += len(data)

    def read(self, fd: int, offset: int, count: int) -> bytes:
        """At most ``count`` bytes, none from the end on; blocks, so call it in a thread. OSError if it cannot."""
        return os.pread(fd, count, offset)


def _splice(fd: int, offset: int, end: int) -> bool:
    """Fetch bytes by splicing them to /dev/null: Linux copies none. False where it cannot, or no descriptor is left."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return False
    try:
        while offset < end and (n := os.sendfile(null, fd, offset, end - offset)):
            offset += n
    except AttributeError:
        return False
    except OSError as error:
        if error.errno in _CANNOT_SPLICE:
            return False
        raise
    finally:
        os.close(null)
    return True
