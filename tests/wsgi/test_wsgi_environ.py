"""The environ as an application gets it over the wire (PEP 3333, "environ Variables"; issue: "environ complete")."""

from __future__ import annotations

import contextvars
import json
from pathlib import Path
from typing import Any

import pytest
import trio
from answers import read_answers
from asking import PLAIN, App, Environ, StartResponse, ask, request
from serving import receive_all, serving


def tell(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answers with all of its environ that has a JSON form."""
    assert type(environ) is dict  # not a subclass (PEP 3333)
    start_response("200 OK", PLAIN)
    return [
        json.dumps({key: value for key, value in environ.items() if isinstance(value, str | bool | tuple)}).encode()
    ]


async def environ_of(sent: bytes, **settings: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((await ask(tell, sent, **settings)).answer.body)
    return told


async def test_every_variable_of_pep_3333_is_there() -> None:
    async with serving(tell) as served, await served.connect() as stream:
        address, port = stream.socket.getsockname()
        await stream.send_all(request("GET", "/a%20b/%C3%A9?x=%20y", "X-Thing: 1", "Content-Type: a/b"))
        with trio.fail_after(5):
            told = json.loads((await receive_all(stream)).partition(b"\r\n\r\n")[2])
    software = told.pop("SERVER_SOFTWARE")
    assert software.startswith("trio-wsgi/")
    assert {key: value for key, value in told.items() if not key.startswith("trio_wsgi.")} == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\xc3\xa9",  # bytes, one character each
        "QUERY_STRING": "x=%20y",
        "REQUEST_URI": "/a%20b/%C3%A9?x=%20y",
        "RAW_URI": "/a%20b/%C3%A9?x=%20y",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(served.port),  # a str, always (PAINS 48)
        "REMOTE_ADDR": address,
        "REMOTE_PORT": str(port),
        "CONTENT_TYPE": "a/b",
        "HTTP_HOST": "test",
        "HTTP_CONNECTION": "close",
        "HTTP_X_THING": "1",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


# settings, request, what the environ has; None: it is missing
CASES: list[Any] = [
    pytest.param(
        {"url_prefix": "/app"}, request("GET", "/app/x"), {"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}, id="prefix"
    ),
    pytest.param(
        {"url_prefix": "/app"}, request("GET", "/app"), {"SCRIPT_NAME": "/app", "PATH_INFO": ""}, id="its root"
    ),
    pytest.param({"var": (("site.name", "öst"),)}, request(), {"site.name": "\xc3\xb6st"}, id="--var, as wsgi str"),
    pytest.param({"var": (("REMOTE_USER", "me"),)}, request(), {"REMOTE_USER": "me"}, id="--var of a CGI name"),
    pytest.param({"url_scheme": "https"}, request(), {"wsgi.url_scheme": "https", "HTTPS": "on"}, id="--url-scheme"),
    pytest.param({}, request("GET", "/", "Authorization: a"), {"HTTP_AUTHORIZATION": "a"}, id="authorization passed"),
    pytest.param(
        {"pass_authorization": False},
        request("GET", "/", "Authorization: a"),
        {"HTTP_AUTHORIZATION": None},
        id="authorization kept back",
    ),
    pytest.param({}, request("GET", "/", "A: 1", "a: 2"), {"HTTP_A": "1,2"}, id="duplicates joined (RFC 9110 §5.3)"),
    pytest.param(
        {}, request("GET", "/", "Cookie: a=1", "Cookie: b=2"), {"HTTP_COOKIE": "a=1; b=2"}, id="cookies joined"
    ),
    pytest.param(
        {}, request("GET", "/", "A-B: 1", "A_B: 2"), {"HTTP_A_B": "1"}, id="an underscore impersonates nobody"
    ),
    pytest.param({}, request("GET", "/", "Proxy: x"), {"HTTP_PROXY": None}, id="HTTP_PROXY (CVE-2016-5385)"),
    pytest.param({}, request("GET", "/", "X: \xe9"), {"HTTP_X": "\xe9"}, id="latin-1, one character a byte"),
    pytest.param({}, request(), {"CONTENT_LENGTH": None, "CONTENT_TYPE": None}, id="no body, no length"),
    pytest.param({}, request("POST", body=b"abc"), {"CONTENT_LENGTH": "3", "HTTP_CONTENT_LENGTH": None}, id="length"),
    pytest.param(
        {},
        request("POST", body=b"x" * 50, chunked=True),
        {"CONTENT_LENGTH": "50", "HTTP_TRANSFER_ENCODING": None},
        id="chunked and buffered: the length is known",
    ),
    pytest.param(
        {"request_buffering": False},
        request("POST", body=b"x" * 50, chunked=True),
        {"CONTENT_LENGTH": None, "wsgi.input_terminated": True},
        id="chunked and streamed: nobody knows it",
    ),
    pytest.param({"threads": 1}, request(), {"wsgi.multithread": False}, id="one thread"),
    pytest.param({"threads": 2}, request(), {"wsgi.multithread": True}, id="two threads"),
    pytest.param({}, request(version="1.0"), {"SERVER_PROTOCOL": "HTTP/1.0"}, id="HTTP/1.0"),
    pytest.param(
        {},
        request("GET", "http://other:99/x"),
        {"PATH_INFO": "/x", "HTTP_HOST": "other:99", "wsgi.url_scheme": "http"},
        id="absolute form (RFC 9112 §3.2.2)",
    ),
    pytest.param({}, request("OPTIONS", "*"), {"PATH_INFO": "", "REQUEST_URI": "*"}, id="OPTIONS *"),
]


@pytest.mark.parametrize(("settings", "sent", "expected"), CASES)
async def test_one_variable(settings: dict[str, Any], sent: bytes, expected: dict[str, Any]) -> None:
    told = await environ_of(sent, **settings)
    assert {key: told.get(key) for key in expected} == expected


@pytest.mark.usefixtures("each_engine", "each_way")
async def test_a_path_outside_of_the_prefix_is_not_the_apps() -> None:
    """Which costs nobody the connection."""
    outside = b"POST /apple HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi"
    async with serving(tell, url_prefix="/app") as served:
        raw = await served.exchange(outside * 2 + request("GET", "/app/le"))
    answers = read_answers(raw, ["POST", "POST", "GET"])
    assert [answer.status for answer in answers] == [404, 404, 200]


async def test_on_a_unix_socket_the_names_are_still_strings_that_make_a_url(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(tell, bind=(f"unix:{path}",)):
        stream = trio.SocketStream(trio.socket.socket(trio.socket.AF_UNIX))
        async with stream:
            await stream.socket.connect(str(path))
            await stream.send_all(request())
            with trio.fail_after(5):
                told = json.loads((await receive_all(stream)).partition(b"\r\n\r\n")[2])
    assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == ("", "")
    assert told["SERVER_NAME"] and told["SERVER_PORT"] == "80"  # never empty (PEP 3333)


async def test_an_environ_belongs_to_one_request() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        seen = str(environ.get("mine", "nothing")).encode()
        environ["mine"] = "something"
        return [seen]

    async with serving(app) as served:
        one = request().replace(b"Connection: close\r\n", b"")
        raw = await served.exchange(one + request())
    assert raw.count(b"nothing") == 2


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def leave_a_mark(environ: Environ, start_response: StartResponse) -> Any:
    before = VARIABLE.get()
    VARIABLE.set("left behind")
    start_response("200 OK", PLAIN)
    yield before.encode()
    yield b" then " + VARIABLE.get().encode()  # the call and its iteration share one context


async def test_context_variables_live_for_one_request() -> None:
    async with serving(leave_a_mark, threads=1) as served:
        for _ in range(2):
            raw = await served.exchange(request(version="1.0"))
            assert raw.endswith(b"\r\n\r\nunset then left behind")


async def test_context_variables_of_who_serves_are_seen() -> None:
    VARIABLE.set("outside")
    asked = await ask(leave_a_mark)
    assert asked.answer.body == b"outside then left behind"
    assert VARIABLE.get() == "outside"


async def test_trio_from_thread_works_in_the_app() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        trio.from_thread.check_cancelled()
        return [repr(trio.from_thread.run_sync(trio.current_time) > 0).encode()]

    answered: App = app
    assert (await ask(answered)).answer.body == b"True"
