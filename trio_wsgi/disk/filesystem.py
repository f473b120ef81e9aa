"""What the kernel tells of an open file without asking a disk or a network: its file system, and whether it has a name.

Laws:

* open(2) and close(2) of a file system of a network, or of a process of somebody's (FUSE), ask it and wait for it: at a
  close for FUSE_FLUSH, or for what NFS has to say. So only those that are known to ask nobody are trusted, by their
  type (statfs(2)); of any other it is supposed that it may hang.
* To ask for the type may wait as well: it is done in a thread, and believed for a second by the number of the device,
  for those are given anew to what is mounted later.
* Whether a file has lost its name is what proc(5) says: st_nlink counts for nothing in file systems that do not keep
  it, such as many of FUSE, and is 1 for a directory that was removed from a lower layer of overlayfs.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from sendfile.identity import file_system_type

# statfs(2), f_type: ext2 to ext4, XFS, Btrfs, F2FS, overlayfs. That one opens the file below it, which is trusted to be
# local, as a container's image is. Not tmpfs: it forgets which names are not there, and nearly every file has siblings
# that are not.
_OPEN_AT_ONCE = {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x794C7630}
# And tmpfs, ramfs, hugetlbfs, ZFS, bcachefs, JFS, SquashFS, EROFS, ISO 9660, UDF, FAT, exFAT, NTFS (linux/magic.h).
_CLOSE_AT_ONCE = _OPEN_AT_ONCE | {
    0x01021994, 0x858458F6, 0x958458F6, 0x2FC12FC1, 0xCA451A4E, 0x3153464A, 0x73717368, 0xE0F5E1E2, 0x9660, 0x15013346,
    0x4D44, 0x2011BAB0, 0x7366746E,
}  # fmt: skip
# procfs, sysfs, debugfs, tracefs, securityfs, configfs, cgroup and cgroup2: st_size is nothing, or a page.
_SIZES_MADE_UP = {0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x73636673, 0x62656570, 0x27E0EB, 0x63677270}
_DEVICES_MAX = 256  # that are remembered
_DELETED = " (deleted)"


def opens_at_once(fd: int) -> bool:
    """Whether the file system of a directory opens what it has in the kernel's caches without asking anybody."""
    return file_system_type(fd) in _OPEN_AT_ONCE


def is_local(fd: int, device: int) -> bool:
    """Whether to close a file asks nobody outside of this kernel. May block where it does.

    Args:
        fd: of the file.
        device: its st_dev, by which the answer is remembered.
    """
    return _type_of(fd, device) in _CLOSE_AT_ONCE


def makes_up_sizes(fd: int, device: int) -> bool:
    """Whether the size of a file is known only once it was read; arguments as of `is_local`."""
    return _type_of(fd, device) in _SIZES_MADE_UP


def _type_of(fd: int, device: int) -> int:
    second = int(time.monotonic())
    seen = _seen.get(device)
    if seen is None or seen[0] != second:
        if len(_seen) >= _DEVICES_MAX:
            _seen.clear()
        seen = _seen[device] = second, file_system_type(fd)
    return seen[1]


_seen: dict[int, tuple[int, int]] = {}  # st_dev: the second in which it was asked, and its f_type


def has_lost_name(fd: int) -> bool:
    """Whether a file or directory was deleted; maybe one of several names, and also where its name ends as if it were.

    Never waits for a disk or a network, unlike fstat(2), which is asked only where there is no proc(5).

    Raises:
        OSError: it is closed already.
    """
    try:
        return _name_of(fd).endswith(_DELETED)
    except OSError:
        return not os.fstat(fd).st_nlink


def was_removed(fd: int) -> bool:
    """Whether a directory was removed, as far as its file system still knows of it. May block.

    That of FUSE or NFS may know nothing any more (ENOENT, ESTALE), or have gone itself (ENOTCONN).
    """
    try:
        status = os.fstat(fd)
        if not has_lost_name(fd):
            return False
    except OSError:
        return True
    with suppress(OSError):  # its name may end so
        return not os.path.samestat(os.stat(_name_of(fd)), status)  # noqa: PTH116 - as below
    return True


def _name_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - half the price
