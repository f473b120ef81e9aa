"""`Server(tls=...)`: what `open_tls` gave for the same settings serves, and nothing else is taken."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
from asking import PLAIN, Environ, StartResponse
from authority import connect_tls, shared_authority

from trio_wsgi import Config, Server, Tls, open_tls
from trio_wsgi.errors import ConfigError

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SETTINGS = Config(bind=("127.0.0.1:0",), certfile=(shared_authority()[1],))


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [environ["wsgi.url_scheme"].encode()]


async def test_what_open_tls_gave_serves_though_the_files_cannot_be_read_any_more() -> None:
    tls = open_tls(SETTINGS)
    async with trio.open_nursery() as nursery:
        (address, *_) = await nursery.start(Server(hello, SETTINGS, tls=tls).serve)
        stream = await connect_tls(address.port)
        await stream.send_all(GET)
        assert (await stream.receive_some()).endswith(b"https")
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


def given() -> dict[str, Any]:
    """What somebody may think of."""
    own = shared_authority()[0].server_context()
    return {
        "text": "cert.pem",
        "context": own,
        "context inside": Tls(own),
        "context of a client": Tls(ssl.create_default_context()),
        "no context": Tls("x"),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("what", list(given()))
def test_anything_else_is_refused_when_it_is_given(what: str) -> None:
    """It would have failed for each client; or, a context of one's own, without the rules that ours have."""
    with pytest.raises(TypeError, match=r"tls is what trio_wsgi\.open_tls\(config\) gives") as caught:
        Server(hello, SETTINGS, tls=given()[what])
    assert len(str(caught.value)) < 300


def test_settings_without_a_certificate_do_not_go_with_it() -> None:
    """Applications would be told http, and there would be nothing to read anew."""
    with pytest.raises(ConfigError, match="certfile: there is none, and yet tls is given"):
        Server(hello, Config(), tls=open_tls(SETTINGS))
