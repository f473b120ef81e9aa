"""What reads requests and frames responses for a wire; by h11.

Laws:

* A codec is given exactly one message at a time, whose head has passed `rules.head`, and no byte beyond its end.
* It owns the framing of responses: nothing else writes a head, a chunk or their ends.
* While it rests, it holds nothing that it can make anew: thousands rest, whose clients read slowly or ask nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import h11

from sendfile import Part
from trio_wsgi.errors import ClientError
from trio_wsgi.rules.chunks import SIZE_LINE_MAX
from trio_wsgi.rules.headers import HeaderPairs, get_length

PARSED_MAX = 128 * 1024  # bytes of a body of known length that h11 still reads itself


class Asked(NamedTuple):
    """A request as it was read, though we may refuse it."""

    method: bytes
    target: bytes
    headers: HeaderPairs  # lower-case names
    http_version: bytes


class Codec(Protocol):
    """Reads requests and frames responses for one connection."""

    asked: Asked | None  # the present request
    body_size: int  # bytes of body that it likes to be fed at once

    def read_head(self, raw: bytes) -> Asked:
        """Read a head.

        Raises:
            ClientError: it is none.
        """

    def note_refused(self, asked: Asked) -> None:
        """A head was refused before it was read: so much of it is known, and the answer is framed as one to that."""

    def end_request(self) -> None:
        """No body follows the head; or one of which it was to be told no more than this."""

    def begin_body(self, length: int) -> bool:
        """A body of so many bytes follows the head; whether it is to be fed with them."""

    def feed(self, data: bytes) -> None:
        """Take bytes of the request's body, as they are on the wire."""

    def next_data(self) -> bytes | None:
        """What of the body they hold: some of it, b"" at its end, None when more of them are needed.

        Raises:
            ClientError: they break the rules.
        """

    def frame_interim(self, status: int, reason: bytes, headers: HeaderPairs) -> list[Part]:
        """A 1xx response; nothing where it would come too late (RFC 9110 §10.1.1)."""

    def frame_head(self, status: int, reason: bytes, headers: HeaderPairs, length_known: bool) -> list[Part]:
        """The head of the response. Without a Content-Length (`length_known`) its body is chunked, or ended by closing
        for HTTP/1.0."""

    def frame_data(self, part: Part) -> list[Part]:
        """A piece of its body; it is passed through unread, whatever it is."""

    def frame_block(self, block: bytes) -> bytes:
        """A piece of its body in memory, not an empty one, as one piece to be sent; `frame_data` for many of them."""

    def frame_end(self) -> list[Part]:
        """Its end."""

    @property
    def response_started(self) -> bool:
        """Whether a head was framed for the present request."""

    def start_next_cycle(self) -> bool:
        """Make ready for the next request; False where there can be none."""

    def rest(self) -> None:
        """For a while nothing is read and nothing framed; in the middle of a message it changes nothing."""


_END = h11.EndOfMessage()  # immutable
_OVER = {h11.DONE, h11.MUST_CLOSE}  # the message, on one side
MakeCodec = Callable[[], Codec]


class _Blocks:
    """How h11 frames the blocks of one response, so that it need not be asked of every one of thousands.

    Chunks of one size are framed alike, and h11 keeps no account of them. What has a Content-Length passes as it is, as
    long as h11's account will bear it; h11 is told the sum.

    Args:
        headers: of the response.
    """

    __slots__ = ("after", "before", "chunk", "headers", "left", "passed", "told")

    def __init__(self, headers: HeaderPairs) -> None:
        self.headers = headers
        self.told = 0  # bytes of body that h11 knows of
        self.chunk = -1  # bytes of the chunk that it framed last, by these lines before and after it
        self.before = self.after = b""
        self.left = 0  # bytes that may pass as they are
        self.passed = 0  # bytes that did, and of which h11 has not been told

    def learn(self, parts: Sequence[bytes]) -> None:
        """Note how h11 framed a block of which it was told."""
        if len(parts) == 3:
            self.before, block, self.after = parts
            self.chunk = len(block)
        elif len(parts) == 1:
            self.left = max(0, (get_length(self.headers) or 0) - self.told)


_NO_BLOCKS = _Blocks(())


class H11Codec:
    """By h11.

    Args:
        head_size: bytes of the largest head.
    """

    body_size = 64 * 1024  # with 256 KiB an upload costs a quarter more: they are moved once more in its buffer

    __slots__ = ("_blocks", "_closes", "_h11", "_line_max", "_started", "asked")

    def __init__(self, head_size: int) -> None:
        self._line_max = max(head_size, SIZE_LINE_MAX)  # one limit for all that comes in parts, a chunk's line as well
        self._h11: h11.Connection | None = None  # while it rests, from the first on
        self._started = False  # as it was before it rested: the response
        self._closes = False  # likewise: the connection, for there can be no other message
        self.asked: Asked | None = None
        self._blocks = _NO_BLOCKS  # of the present response

    def __repr__(self) -> str:
        return "<h11 at rest>" if self._h11 is None else f"<h11 {self._h11.their_state} → {self._h11.our_state}>"

    def _begin(self) -> h11.Connection:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._line_max)
        return self._h11

    def read_head(self, raw: bytes) -> Asked:
        (self._h11 or self._begin()).receive_data(raw)
        request = self._next_event()
        assert type(request) is h11.Request
        self.asked = Asked(request.method, request.target, tuple(request.headers), request.http_version)
        return self.asked

    def note_refused(self, asked: Asked) -> None:
        self.asked = asked
        if asked.method == b"HEAD":  # an answer to any other is framed without a request
            self._show_plain(asked.method)

    def end_request(self) -> None:
        self._next_event()

    def begin_body(self, length: int) -> bool:
        if length <= PARSED_MAX:
            return True  # it has read so itself
        # h11 would copy it four times only to count it, which the wire does as well. It has read and judged the head;
        # now it is shown the same one without a body.
        assert self.asked is not None
        method, target, headers, version = self.asked
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"content-length"]
        self._show(b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, b"".join(lines)))
        return False

    def feed(self, data: bytes) -> None:
        (self._h11 or self._begin()).receive_data(data)

    def next_data(self) -> bytes | None:
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                return None
            if type(event) is h11.EndOfMessage:
                return b""
            if event.data:
                return bytes(event.data)

    def _next_event(self) -> Any:
        try:
            return (self._h11 or self._begin()).next_event()
        except h11.RemoteProtocolError as exc:
            raise ClientError(exc.error_status_hint, str(exc)) from exc

    def frame_interim(self, status: int, reason: bytes, headers: HeaderPairs) -> list[Part]:
        if self._h11 is None or self._h11.our_state is not h11.SEND_RESPONSE:
            return []
        return self._frame(h11.InformationalResponse(status_code=status, reason=reason, headers=list(headers)))

    def frame_head(self, status: int, reason: bytes, headers: HeaderPairs, length_known: bool) -> list[Part]:
        if self.asked is not None and self.asked.http_version == b"1.0" and _keeps_alive(headers):
            # h11 closes after every answer to HTTP/1.0. Where we know the length and keep the connection (RFC 9112
            # §9.3), it is made to see the same request in 1.1; its body was received before.
            self._show_plain(self.asked.method)
        self._blocks = _Blocks(headers)
        return self._frame(_build_response(status, reason, tuple(headers)))

    def frame_data(self, part: Part) -> list[Part]:
        self._account()
        self._blocks.told += len(part)
        return self._frame(h11.Data(data=part))  # type: ignore[arg-type]

    def frame_block(self, block: bytes) -> bytes:
        blocks, size = self._blocks, len(block)
        if size == blocks.chunk:
            return b"".join((blocks.before, block, blocks.after))
        if size <= blocks.left:
            blocks.left -= size
            blocks.passed += size
            return block
        parts: list[bytes] = self.frame_data(block)  # type: ignore[assignment]
        blocks.learn(parts)
        return b"".join(parts)  # of one part, that part

    def frame_end(self) -> list[Part]:
        self._account()
        return self._frame(_END)

    def _account(self) -> None:
        """Tell h11 of what was framed as it had said before."""
        blocks = self._blocks
        blocks.chunk, blocks.left = -1, 0
        if blocks.passed:
            passed, blocks.passed = blocks.passed, 0
            blocks.told += passed
            self._frame(h11.Data(data=range(passed)))  # type: ignore[arg-type] # a size is all that h11 looks at

    def _frame(self, event: Any) -> list[Part]:
        # h11 refuses what would break its own account of the body; that the app got it wrong was found out before.
        return list((self._h11 or self._begin()).send_with_data_passthrough(event) or ())

    def _show_plain(self, method: bytes) -> None:
        self._show(b"%b / HTTP/1.1\r\nhost:\r\n\r\n" % method)
        self.end_request()

    def _show(self, head: bytes) -> None:
        """Begin anew, with another head of the request that was judged already."""
        self._begin().receive_data(head)
        self._next_event()

    @property
    def response_started(self) -> bool:
        return self._started if self._h11 is None else self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    def start_next_cycle(self) -> bool:
        if self._h11 is None:
            if self._closes:
                return False
        elif self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        else:
            self._h11.start_next_cycle()
        self._started = False
        self.asked = None
        self._blocks = _NO_BLOCKS  # an idle connection keeps no response alive
        return True

    def rest(self) -> None:
        if self._h11 is None:
            return
        states = {self._h11.our_state, self._h11.their_state}
        if states <= _OVER or states == {h11.IDLE}:
            self._started = self.response_started
            self._closes = h11.MUST_CLOSE in states
            self._h11 = None
            self._blocks = _NO_BLOCKS


@lru_cache(maxsize=256)
def _build_response(status: int, reason: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> h11.Response:
    """Checking a head costs h11 more than framing it, and many are equal within a second; they are immutable."""
    return h11.Response(status_code=status, reason=reason, headers=list(headers))


def _keeps_alive(headers: HeaderPairs) -> bool:
    return any(name.lower() == b"connection" and value.lower() == b"keep-alive" for name, value in headers)
