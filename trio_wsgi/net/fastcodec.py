"""The other codec: requests by httptools (the extra `fast`), responses by `rules.framing`.

Laws:

* It may refuse, and never accept, more than h11: a head that httptools does not take is given to h11, whose word
  counts. In the extensions of chunks it takes only tokens and quoted strings, and no white space: no client is known
  to send another.
* Parser and framing see one message at a time, as `net.codec` says. A body whose length is known needs no parser.
"""

from __future__ import annotations

import enum

from sendfile import Part
from trio_wsgi.errors import ClientError, ConfigError
from trio_wsgi.net.codec import Asked, H11Codec, MakeCodec
from trio_wsgi.rules.framing import Framing, build_response_head, decide_framing
from trio_wsgi.rules.headers import HeaderPairs

try:
    import httptools
except ImportError:
    httptools = None  # type: ignore[assignment]


def choose_codec(engine: str, head_size: int) -> MakeCodec:
    """What makes the codecs of new connections.

    Args:
        engine: the setting `http`.
        head_size: bytes of the largest head.

    Raises:
        ConfigError: httptools is asked for and not there.
    """
    if engine == "h11" or (engine == "auto" and httptools is None):
        return lambda: H11Codec(head_size)
    if httptools is None:
        raise ConfigError("http", "httptools is not installed", "pip install 'trio-wsgi[fast]', or write http = h11")
    return lambda: FastCodec()


class Refused(Exception):
    """httptools does not take this head: an unknown method, an upgrade (which we do not take, nor refuse), or worse.

    h11 is to say what is wrong with it, if anything is.
    """


class _Phase(enum.Enum):
    IDLE = "no response yet"
    BODY = "head framed"
    DONE = "framed to its end"


class _Heard:
    """What a parser has told of the present message; apart from its codec, or the two would refer to each other."""

    __slots__ = ("complete", "data", "headers", "in_body", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.data: list[bytes] = []  # of the body, that one feed gave
        self.complete = False  # the request
        self.in_body = False  # its head was read

    # httptools calls these

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_body:  # trailers are read, and dropped
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.data.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


class FastCodec:
    """By httptools."""

    body_size = 256 * 1024

    __slots__ = ("_chunk", "_chunk_line", "_framing", "_heard", "_parser", "_phase", "asked")

    def __init__(self) -> None:
        self._heard = _Heard()
        self._parser: httptools.HttpRequestParser | None = None  # while it rests, from the first on
        self.asked: Asked | None = None
        self._phase = _Phase.IDLE
        self._framing = Framing.NONE
        self._chunk = -1  # bytes of the chunk that was framed last in this response; -1 where there are none
        self._chunk_line = b""  # before it

    def __repr__(self) -> str:
        state = "at rest" if self._parser is None else "complete" if self._heard.complete else "reading"
        return f"<httptools {state} → {self._phase.value}>"

    def _begin(self) -> httptools.HttpRequestParser:
        self._parser = httptools.HttpRequestParser(self._heard)
        return self._parser

    def read_head(self, raw: bytes) -> Asked:
        parser, heard = self._parser or self._begin(), self._heard
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise Refused from exc
        version = parser.get_http_version().encode("ascii")
        self.asked = Asked(parser.get_method(), heard.target, tuple(heard.headers), version)
        heard.target, heard.headers, heard.in_body = b"", [], True
        return self.asked

    def note_refused(self, asked: Asked) -> None:
        self.asked = asked

    def end_request(self) -> None:
        self._heard.complete = True

    def begin_body(self, length: int) -> bool:
        self._begin()  # the old one waits for a body that it will not see
        return False

    def feed(self, data: bytes) -> None:
        try:
            (self._parser or self._begin()).feed_data(data)
        except httptools.HttpParserError as exc:
            raise ClientError(400, f"malformed body: {exc}") from exc

    def next_data(self) -> bytes | None:
        heard = self._heard
        if heard.data:
            data = b"".join(heard.data)  # of one piece, that piece
            heard.data.clear()
            return data
        return b"" if heard.complete else None

    def frame_interim(self, status: int, reason: bytes, headers: HeaderPairs) -> list[Part]:
        if self._phase is not _Phase.IDLE or self.asked is None:
            return []
        return [build_response_head(status, reason, headers, b"")]

    def frame_head(self, status: int, reason: bytes, headers: HeaderPairs, length_known: bool) -> list[Part]:
        method, version = (b"GET", b"1.1") if self.asked is None else (self.asked.method, self.asked.http_version)
        self._phase = _Phase.BODY
        self._framing, line = decide_framing(method, version, status, length_known)
        self._chunk = 0 if self._framing is Framing.CHUNKED else -1
        return [build_response_head(status, reason, headers, line)]

    def frame_data(self, part: Part) -> list[Part]:
        if self._framing is Framing.NONE:
            return []
        if self._framing is Framing.CHUNKED:
            return [b"%x\r\n" % len(part), part, b"\r\n"]
        return [part]

    def frame_block(self, block: bytes) -> bytes:
        size = len(block)
        if size != self._chunk:
            if self._chunk < 0:
                return b"" if self._framing is Framing.NONE else block
            self._chunk, self._chunk_line = size, b"%x\r\n" % size
        return b"".join((self._chunk_line, block, b"\r\n"))

    def frame_end(self) -> list[Part]:
        self._phase = _Phase.DONE
        return [b"0\r\n\r\n"] if self._framing is Framing.CHUNKED else []

    @property
    def response_started(self) -> bool:
        return self._phase is not _Phase.IDLE

    def start_next_cycle(self) -> bool:
        if self._phase is not _Phase.DONE or not self._heard.complete or self._framing is Framing.CLOSE:
            return False
        self.asked = None
        self._heard.complete = self._heard.in_body = False
        self._phase = _Phase.IDLE
        return True

    def rest(self) -> None:
        # Nothing of a message was read, or it was to its end, and answered.
        if not self._heard.in_body or (self._heard.complete and self._phase is _Phase.DONE):
            self._parser = None
