"""A directory that is served under a URL, before the application and without it.

Laws:

* GET and HEAD only; everything below the URL is the mount's, found or not.
* A directory's URL ends in a slash; one without is redirected, so that relative links work. Where a proxy of ours has
  taken away a part of the path, it stands in the redirection again; which says so, for caches on the way.
* A precompressed sibling (`style.css.br` beside `style.css`) is another representation of the file: its own entity tag,
  and `Vary` wherever there are siblings, whichever was chosen. One that is older than the file is not its like any
  more.
* Ranges are of the file itself, as in nginx: who unpacks what it gets cannot do so with a piece of a packed one.
* That a file has no sibling is believed for a second: to look for three names that are not there costs as much as to
  open the file. A sibling that is there is opened anew each time.
* What is opened is closed here unless it is handed out in the answer.
* There is one way to an answer, whether it may wait for the disk or takes only what is at hand.
"""

from __future__ import annotations

import logging
import math
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sendfile import FileSpan
from trio_wsgi.disk.answer import Answer, answer_file, say, second_of
from trio_wsgi.disk.root import Absent, AtHand, Directory, OpenedFile, Root, find_again_if_renewed
from trio_wsgi.errors import find_lack
from trio_wsgi.rules.accept import choose_encoding
from trio_wsgi.rules.fileanswer import FileOptions
from trio_wsgi.rules.forwarded import Forwarding, find_prefix
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import Head, join_duplicates
from trio_wsgi.rules.listing import CONTENT_SECURITY_POLICY, Entry, build_page
from trio_wsgi.rules.mediatypes import guess_type
from trio_wsgi.rules.paths import MountPath, directory_location, refuse_name, split_mount

log = logging.getLogger("trio_wsgi.error")

_OF_A_LISTING = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Cache-Control", b"no-cache"),
    (b"Content-Security-Policy", CONTENT_SECURITY_POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
)
SUFFIXES = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}  # our favourite first
_COMPRESSED = tuple(SUFFIXES.values())
_REMEMBERED = 1024  # files of a mount
_PREFIX = b"X-Forwarded-Prefix"


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What the operator allows for mounts.

    Args:
        index: names of files that answer for their directory.
        expires: seconds that answers may be cached; infinite to say nothing of it.
        listing: show the entries of a directory without an index.
        files: ranges and validators.
    """

    index: tuple[str, ...] = ("index.html",)
    expires: float = math.inf
    listing: bool = False
    files: FileOptions = field(default_factory=FileOptions)


class Mount:
    """One directory under one URL.

    Args:
        prefix: of the URL's path, percent-encoded.
        root: the directory; closed by whoever made it.
        options: see there.
    """

    def __init__(self, prefix: bytes, root: Root, options: MountOptions) -> None:
        self._prefix = prefix
        self._root = root
        self._options = options
        self._alone: dict[tuple[bytes, ...], int] = {}  # files without siblings: the second in which that was seen

    def __repr__(self) -> str:
        return f"<Mount {self._prefix!r} = {self._root.path}>"

    @property
    def device(self) -> int:
        """Of the directory's file system."""
        return self._root.device

    def find(self, request: RequestHead) -> MountPath | None:
        """The names to open for a request, or None when it is not for this mount. Does not block."""
        return split_mount(request.path, self._prefix)

    def answer(self, request: RequestHead, path: MountPath, forwarding: Forwarding | None) -> Answer:
        """Answer a request that `find` found to be ours. Blocks on the disk.

        Args:
            path: what `find` gave.
            forwarding: how to read what a proxy of ours says of its client; None where nobody is believed.

        Raises:
            OSError: for what the system lacks (`errors.find_lack`), such as descriptors.
        """
        return self._answer(request, path, forwarding, self._root)

    def answer_nowait(self, request: RequestHead, path: MountPath, forwarding: Forwarding | None) -> Answer:
        """The same, never waiting for the disk.

        Raises:
            NotAtHand: not all of it is at hand; `answer` is to be asked, in a thread.
        """
        return self._answer(request, path, forwarding, self._root.at_hand)

    def _answer(
        self, request: RequestHead, path: MountPath, forwarding: Forwarding | None, root: Root | AtHand
    ) -> Answer:
        if request.method not in {b"GET", b"HEAD"}:
            return say(request, 405, [(b"Allow", b"GET, HEAD")])
        try:
            if path.refused:
                raise Absent(path.refused)
            lookup = _Lookup(root, request, path, forwarding, self._options, self._alone)
            return find_again_if_renewed(root, lookup.find)
        except PermissionError:
            return say(request, 403)
        except Absent as exc:
            log.debug("%r: %s: %s", self, request.target.decode("latin-1"), exc)
            return say(request, 404)
        except OSError as exc:
            if find_lack(exc) is not None:  # nothing is wrong with the disk
                raise
            log.error("%r: %s: %s", self, request.target.decode("latin-1"), exc)
            return say(request, 500)


def find_mount(mounts: Sequence[Mount], request: RequestHead) -> tuple[Mount, MountPath] | None:
    """The first mount that a request is for. Does not block."""
    for mount in mounts:
        if (path := mount.find(request)) is not None:
            return mount, path
    return None


@dataclass(slots=True)
class _Lookup:
    """One request, looked up in the directory of its mount.

    Args:
        root: the directory, or what of it is at hand.
        request, path, forwarding: see `Mount.answer`.
        options: of the mount.
        alone: files of the mount that have no siblings, see there.
    """

    root: Root | AtHand
    request: RequestHead
    path: MountPath
    forwarding: Forwarding | None
    options: MountOptions
    alone: dict[tuple[bytes, ...], int]

    def find(self) -> Answer:
        """The answer; may be asked for again.

        Raises:
            as `Root.open`.
        """
        path = self.path
        opened = self.root.open(path.names)
        if isinstance(opened, OpenedFile):
            if path.directory:
                opened.file.close()
                raise Absent("a file's name with a slash at its end")
            return self._with_file(path.names, opened)
        if path.directory and (found := self._find_in_directory()) is not None:
            return found
        return self._redirect()

    def _find_in_directory(self) -> Answer | None:
        """The directory's index or its entries; None where they are to be asked for by another name."""
        for name in self.options.index:
            names = (*self.path.names, name.encode())
            try:
                opened = self.root.open(names)
            except Absent:
                continue
            if isinstance(opened, OpenedFile):
                return self._with_file(names, opened)
        if not self.options.listing:
            raise Absent("a directory without an index")
        path = self.request.path
        if b"//" in path or not path.endswith(b"/"):  # clients do not agree on where relative links lead from there
            return None
        return self._with_listing()

    def _with_listing(self) -> Answer:
        """The entries of the directory that can be asked for."""
        names = self.path.names
        entries = [
            Entry(name, stat.S_ISDIR(status.st_mode), status.st_size, second_of(status))
            for name, status in self.root.list(names)
            if not name.startswith(b".") and not refuse_name(name)
        ]
        page = build_page(directory_location(self.request.path), entries, len(names))
        headers = [*_OF_A_LISTING, (b"Content-Length", b"%d" % len(page))]
        return Answer(Head(200, b"OK", headers), [] if self.request.method == b"HEAD" else [page])

    def _with_file(self, names: tuple[bytes, ...], opened: OpenedFile) -> Answer:
        """The file, or the sibling of it that the client prefers. Takes over `opened`."""
        request = self.request
        headers = [(b"Content-Type", guess_type(names[-1]))]
        if self.options.expires < math.inf:
            headers.append((b"Cache-Control", b"max-age=%d" % self.options.expires))
        siblings: dict[str, OpenedFile] = {}
        try:
            self._open_siblings(names, opened, siblings)
            variant, options = b"", self.options.files
            if siblings:
                headers.append((b"Vary", b"Accept-Encoding"))
                coding = choose_encoding(join_duplicates(request.headers, b"accept-encoding"), list(siblings))
                if coding in siblings and join_duplicates(request.headers, b"range") is None:
                    options = replace(options, max_ranges=0)  # none are offered
                    headers.append((b"Content-Encoding", coding.encode()))
                    variant = coding.encode()
                    opened.file.close()
                    opened = siblings.pop(coding)
            span = FileSpan(opened.file, 0, opened.status.st_size)
            answer = answer_file(request, Head(200, b"OK", headers), span, opened.status, options, variant)
        except BaseException:
            opened.file.close()
            raise
        finally:
            for sibling in siblings.values():
                sibling.file.close()
        answer.closing = opened.closing()
        return answer

    def _open_siblings(self, names: tuple[bytes, ...], plain: OpenedFile, siblings: dict[str, OpenedFile]) -> None:
        """Put them into `siblings`, whose owner closes them whatever happens here."""
        second = int(time.monotonic())
        if self.alone.get(names) == second or names[-1].endswith(_COMPRESSED):
            return
        for coding, suffix in SUFFIXES.items():
            try:
                opened = self.root.open((*names[:-1], names[-1] + suffix))
            except (Absent, PermissionError):
                continue
            if isinstance(opened, Directory):
                continue
            if second_of(opened.status) < second_of(plain.status):
                opened.file.close()
            else:
                siblings[coding] = opened
        if not siblings:
            if len(self.alone) >= _REMEMBERED:
                self.alone.clear()
            self.alone[names] = second

    def _redirect(self) -> Answer:
        """To the one name of a directory: single slashes, one at the end, no dot segments."""
        request, prefix, headers = self.request, b"", []
        if self.forwarding is not None and _PREFIX.lower() in self.forwarding.names:
            prefix = find_prefix(request.headers, self.forwarding)
            # A proxy may pass on what its client says, and keep the answer for others.
            headers.append((b"Vary", _PREFIX))
        headers.append((b"Location", directory_location(prefix + request.path, request.query or None)))
        return say(request, 301, headers)
