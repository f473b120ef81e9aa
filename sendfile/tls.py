"""Sending parts on a TLS socket: as `step` does it on a plain one, with one copy for files.

Laws:

* One step is a few writes. OpenSSL reports one as taken when the kernel has the last of its records, and that alone is
  how far a part advances.
* A write that the kernel took in part is owed: the records that are left of it go out before anything else can, so the
  next step is given the same bytes again, whatever its limit (SSL_write(3), "SSL_ERROR_WANT_WRITE"), and at the same
  place in memory: where the kernel encrypts, OpenSSL holds to the place, whatever it promises (openssl#21202).
* Files are read into a buffer that its owner shares among all senders of one event loop: a slow reader holds none of
  it, since what is owed is read again. Hence the size of a write: `PIECE` for one who takes as much, and the less the
  more often a write is owed.
* A step sends bytes or of one file, never both: whether a file is in memory is asked before each step.
* Bytes that are not encrypted never leave here: sendfile(2) is not used.
* What OpenSSL keeps of an error that the kernel gave is forgotten at once (`forget_errors`): the next connection that
  this thread serves would be told of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import ssl

import trio

from sendfile.held import held_by_kernel
from sendfile.parts import Parts, consume, head, size
from sendfile.span import FileSpan
from sendfile.step import FileTooShort, read_at

PIECE = 1 << 18
"""Most bytes of one step, some 0.3 ms, and of one write. Steps of 64 KiB took a third more CPU for a client that reads
fast; steps twice as long took 4 % less than these, and the requests of others a tenth longer. Four writes of 64 KiB
took a quarter more CPU for eight clients that read fast, an eighth more for one."""

_PLACE = re.compile(r" \(_ssl\.c:\d+\)")  # that Python adds, of its own source
_LEAST = 1 << 16  # that `PIECE` shrinks to: four records; one at a time took a seventh more CPU


class TlsSender:
    """The sending side of one TLS socket.

    Args:
        sock: non-blocking, with its handshake done. Nobody else sends on it, and nobody receives in another thread
            while a step runs: OpenSSL's connections are not for two threads at a time.
        buffer: `PIECE` bytes that files are read into; shared with other senders of the same thread. Fewer will do, and
            take more CPU.

    Raises:
        ValueError: there is no byte in the buffer, or it cannot be written to.
    """

    __slots__ = ("_ahead", "_buffer", "_kept", "_piece", "_taken", "owed", "sent", "sock")

    def __init__(self, sock: ssl.SSLSocket, buffer: bytearray) -> None:
        self.sock: ssl.SSLSocket = sock
        self._buffer = memoryview(buffer)
        if not buffer or self._buffer.readonly:
            what = f"{len(buffer)} bytes of {type(buffer).__name__}"
            raise ValueError(f"a TlsSender reads files into its buffer, pass bytearray(PIECE), not {what}")
        self.sent: int = 0  # in all
        self.owed: int = 0
        self._piece = _LEAST  # most bytes of the next write
        self._kept: bytes | memoryview = b""  # what is owed
        self._ahead = 0  # of what is owed, what the kernel has already; or less, of a peer that takes it so soon
        self._taken = 0

    def __repr__(self) -> str:
        return f"<TlsSender fd={self.sock.fileno()}, {self.owed} bytes owed>"

    def step(self, parts: Parts, limit: int) -> int:
        """One step on the head of ``parts``, which is consumed in place.

        Args:
            parts: what to send; as long as bytes are owed, their head is as it was.
            limit: most bytes to send, at least 1 and no more than `PIECE`; what is owed is sent in any case.

        Returns:
            How many bytes have left; at least 1 unless ``parts`` is empty.

        Raises:
            trio.WouldBlock: the socket's buffer is full; wait until it is writable.
            FileTooShort: the file ended first; the peer cannot get what it was promised.
            ConnectionError: the peer has gone, or broke the rules of TLS. Any other OSError comes from reading the
                file.

        When it raises, the queue is as before.
        """
        first = head(parts)
        if first is None:
            return 0
        is_file = isinstance(first, FileSpan)
        limit = min(limit, size(first), PIECE) if is_file else min(limit, PIECE)
        was_owed = self.owed
        sent = self._write(parts, limit)
        while sent < limit and (first := head(parts)) is not None and isinstance(first, FileSpan) is is_file:
            try:
                sent += self._write(parts, limit - sent)
            except (trio.WouldBlock, FileTooShort, OSError):  # the next step will meet it again
                break
        if sent - was_owed >= PIECE:
            self._piece = min(self._piece * 2, PIECE)
        return sent

    def _write(self, parts: Parts, limit: int) -> int:
        data = self._next(parts, min(limit, self._piece)) if not self.owed else self._again(parts)
        held = held_by_kernel(self.sock)
        try:
            sent = self.sock.send(data)
        except ssl.SSLWantWriteError:
            self.owed, self._kept = len(data), data
            self._piece = max(self._piece // 2, _LEAST)
            self._ahead = min(self.owed, self._ahead + max(0, held_by_kernel(self.sock) - held))
            raise trio.WouldBlock from None
        except ssl.SSLError as error:
            raise ConnectionResetError(errno.ECONNRESET, describe(error)) from error
        except OSError:
            forget_errors()
            raise
        self.owed, self._kept, self._ahead = 0, b"", 0
        self.sent += sent
        consume(parts, sent)
        return sent

    def taken(self) -> int:
        """Of the bytes that were sent or are owed, how many the peer has taken, as far as one can tell; never falls."""
        self._taken = max(self._taken, self.sent + self._ahead - held_by_kernel(self.sock))
        return self._taken

    def _next(self, parts: Parts, count: int) -> bytes | memoryview:
        """At most ``count`` bytes from the head of the queue."""
        first = parts[0]
        if isinstance(first, FileSpan):
            read = _read_into(first, self._buffer[: min(count, first.count)])
            if not read:
                raise FileTooShort(first)
            return self._buffer[:read]
        joined = min(count, _LEAST)  # more is dearer to copy than to write on its own
        if size(first) >= joined:
            return memoryview(first).cast("B")[:count]
        return _join(parts, joined)

    def _again(self, parts: Parts) -> bytes | memoryview:
        """What is owed; of a file, others have used the buffer since."""
        first = parts[0]
        if isinstance(first, FileSpan) and (read := _read_into(first, self._buffer[: self.owed])) < self.owed:
            raise FileTooShort(first.advance(read))
        return self._kept


def describe(error: ssl.SSLError) -> str:
    """What TLS has to complain of, in one line."""
    if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
        return "TLS: the peer asks to negotiate anew"
    said = error.reason or _PLACE.sub("", error.strerror or str(error))
    why = f": {error.verify_message}" if isinstance(error, ssl.SSLCertVerificationError) else ""
    return "TLS: " + said.lower().replace("_", " ") + why


def forget_errors() -> None:
    """Empty OpenSSL's queue of errors, which all connections of a thread share; call it after one got an OSError.

    `ssl` leaves that error in the queue, and takes it for the next connection's (SSL_get_error(3); cpython#148594, seen
    with Python 3.13 and OpenSSL 3.5). It has no function to empty it; but a context that is given ciphers that nobody
    knows does so before it complains.
    """
    with contextlib.suppress(ssl.SSLError):
        _context_for_errors().set_ciphers("none that is known")


@functools.cache
def _context_for_errors() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _join(parts: Parts, count: int) -> bytes:
    """Bytes up to the next file: a record each would cost some 30 bytes and a system call."""
    joined = bytearray()
    for part in parts:
        if isinstance(part, FileSpan) or len(joined) == count:
            break
        joined += memoryview(part).cast("B")[: count - len(joined)]
    return bytes(joined)


def _read_into(span: FileSpan, buffer: memoryview) -> int:
    fd = span.file.fileno()
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], span.offset)
    data = read_at(fd, len(buffer), span.offset)
    buffer[: len(data)] = data
    return len(data)
