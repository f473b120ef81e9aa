"""The HTTP of one connection: bytes to requests, without waiting, and the codec that frames the responses.

Laws:

* One owner at a time: the connection's task, or the application thread that the task waits for.
* The codec is the only author of framing. It is given exactly one message: the head once our stricter rules have passed
  it, the body, where it has to be parsed, up to its last byte. What follows stays here and is the next request.
* What comes of a body of known length is it, up to its end: it is counted here, and a large one is not parsed.
* The next request is not looked at before the body of the last one is consumed.
* Whatever breaks a rule raises `ClientError`; after that nothing more is read as HTTP.
"""

from __future__ import annotations

from trio_wsgi.errors import ClientError, ClientGone
from trio_wsgi.net.codec import Asked, H11Codec, MakeCodec
from trio_wsgi.net.fastcodec import Refused
from trio_wsgi.net.transport import Transport
from trio_wsgi.rules.chunks import ChunkScanner
from trio_wsgi.rules.head import (
    HeadLimits,
    RequestHead,
    check_head,
    find_head_end,
    parse_request,
    read_request_line,
    skip_blank_lines,
)

RECEIVE_SIZE = 64 * 1024
UNPARSED_SIZE = 256 * 1024  # of a body that nobody parses, where a block is asked for and no buffer is given


class Wire:
    """HTTP/1.1 over one transport.

    Args:
        transport: connected.
        limits: how large a request's head may be.
        body_limit: bytes of a request's body; 0 for no limit.
        make_codec: makes what reads requests and frames responses.

    Attributes:
        codec: of the present request; the next one's may be another.
    """

    __slots__ = ("_body", "_body_limit", "_limits", "_received", "_scanned", "_unparsed", "codec",
                 "transport")  # fmt: skip

    def __init__(self, transport: Transport, limits: HeadLimits, body_limit: int, make_codec: MakeCodec) -> None:
        self.transport = transport
        self._limits = limits
        self._body_limit = body_limit
        self.codec = make_codec()
        self._received = bytearray()  # and not yet given to the codec
        self._scanned = 0  # bytes of it in which the head's end was looked for
        self._body: _Counted | ChunkScanner | None = None  # what of the body is still to come
        self._unparsed = False  # the codec has no part in it

    def __repr__(self) -> str:
        return f"<Wire {self.codec!r}, {len(self._received)} bytes ahead>"

    @property
    def asked(self) -> Asked | None:
        """The present request as it was read, though we may refuse it."""
        return self.codec.asked

    @property
    def has_input(self) -> bool:
        """Whether bytes of the next request have arrived already."""
        return bool(self._received)

    @property
    def body_done(self) -> bool:
        """Whether the request was received to its end."""
        return self._body is None

    @property
    def body_comes_as_it_is(self) -> bool:
        """Whether the next bytes of the body are those that arrive (`receive_body_into`): nobody parses them."""
        return self._unparsed and self.body_left > 0

    @property
    def body_size(self) -> int:
        """Bytes that have arrived of a body that is not done."""
        return self._body.body_bytes if self._body is not None else 0

    @property
    def body_left(self) -> int:
        """Bytes of the request's body that are announced and have not arrived."""
        return self._body.announced - self._body.body_bytes if self._body is not None else 0

    def receive_head_nowait(self) -> RequestHead:
        """The next request, up to its body.

        Raises:
            trio.WouldBlock: it has not arrived whole.
            ClientGone: the peer closed; `has_input` tells whether in the middle of a head.
            ClientError: it is no request that we take.
        """
        while not self._received or (raw := self._cut_head()) is None:
            data = self.transport.receive_nowait(RECEIVE_SIZE)
            if not data:
                raise ClientGone(0, "closed by the client")
            self._received += data
        try:
            check_head(raw, self._limits)
            return self._parse_head(raw)
        except ClientError:
            self._note_refused(raw)
            raise

    def _cut_head(self) -> bytes | None:
        received = self._received
        if received.startswith(b"\r"):
            del received[: skip_blank_lines(received)]
            self._scanned = 0
        try:
            end = find_head_end(received, self._scanned, self._limits)
        except ClientError:
            self._note_refused(received)
            raise
        if end < 0:
            self._scanned = len(received)
            return None
        raw = bytes(received[:end])
        del received[:end]
        self._scanned = 0
        return raw

    def _parse_head(self, raw: bytes) -> RequestHead:
        asked = self._read_head(raw)
        head = parse_request(asked.method, asked.target, asked.headers, asked.http_version)
        if head.chunked:
            self._body = ChunkScanner(self._limits)
            self._unparsed = False
        elif head.content_length:
            self._body = _Counted(head.content_length)
            self._unparsed = not self.codec.begin_body(head.content_length)
        else:
            self.codec.end_request()
        if self._body_limit and (head.content_length or 0) > self._body_limit:
            raise ClientError(413, f"a body of {head.content_length} bytes, limit_request_body is {self._body_limit}")
        return head

    def note_unfinished(self) -> None:
        """Nobody waits any more for the rest of a head: what of it has come is answered."""
        self._note_refused(self._received)

    def _note_refused(self, raw: bytes | bytearray) -> None:
        if self.codec.asked is None and (line := read_request_line(raw)) is not None:
            method, target, version = line
            self.codec.note_refused(Asked(method, target, (), version))

    def _read_head(self, raw: bytes) -> Asked:
        try:
            return self.codec.read_head(raw)
        except Refused:
            self.codec = H11Codec(self._limits.total)
            return self.codec.read_head(raw)

    def receive_body_nowait(self) -> bytes:
        """The next bytes of the body, b"" at its end.

        Raises:
            trio.WouldBlock: none have arrived.
            ClientGone: the peer closed before the end.
            ClientError: the framing is wrong, or the body larger than the limit.
        """
        codec = self.codec
        while (body := self._body) is not None:
            if self._unparsed:
                data = self._receive_body(body, UNPARSED_SIZE)
                self._note_end(body)
                return data
            if (parsed := codec.next_data()) is None:
                codec.feed(self._receive_body(body, codec.body_size))
            elif parsed:
                self._note_end(body)
                return parsed
            else:
                self._body = None
        return b""

    def _note_end(self, body: _Counted | ChunkScanner) -> None:
        """A body of known length ends with its last byte: who reads just so many does not ask whether that is all."""
        if isinstance(body, _Counted) and not self.body_left:
            self.codec.end_request()
            self._body = None

    def receive_body_into(self, buffer: memoryview) -> int:
        """Fill a buffer with the next bytes of the body, where `body_comes_as_it_is`; at least one.

        A large body in blocks of its own would take twice the time: the memory of each is new to the process.

        Raises:
            trio.WouldBlock, ClientGone: as `receive_body_nowait`.
        """
        body = self._body
        assert body is not None
        buffer = buffer[: self.body_left]
        if self._received:
            count = min(len(buffer), len(self._received))
            buffer[:count] = memoryview(self._received)[:count]
            del self._received[:count]
        else:
            count = self.transport.receive_into_nowait(buffer)
            if not count:
                raise self._broken_off()
        body.feed(buffer[:count])
        self._note_end(body)
        return count

    def _broken_off(self) -> ClientGone:
        return ClientGone(0, f"closed by the client after {self.body_size} bytes of the request's body")

    def _receive_body(self, body: _Counted | ChunkScanner, size: int) -> bytes:
        """The next bytes that belong to the body, as they are on the wire."""
        data: bytes | bytearray = self._received
        if data:
            self._received = bytearray()
        else:
            data = self.transport.receive_nowait(size)
            if not data:
                raise self._broken_off()
        count = body.feed(data)
        if self._body_limit and body.announced > self._body_limit:
            raise ClientError(413, f"a body of more than {self._body_limit} bytes (limit_request_body)")
        if count < len(data):
            self._received += memoryview(data)[count:]
            data = data[:count]
        return bytes(data)


class _Counted:
    """A body whose Content-Length is known."""

    def __init__(self, length: int) -> None:
        self.announced = length
        self.body_bytes = 0

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes of `data` belong to the body."""
        count = min(len(data), self.announced - self.body_bytes)
        self.body_bytes += count
        return count
