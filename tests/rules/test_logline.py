"""Rules of the access log's line: gunicorn's atoms, ours, and that no client can break or forge a line."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi.record import Outcome, RequestRecord
from trio_wsgi.rules.logline import DEFAULT_FORMAT, compile_format

RECORD = RequestRecord(
    peer="192.0.2.7",
    peer_port=50123,
    method="GET",
    target="/files/a%20b.iso?part=1&q",
    version="HTTP/1.1",
    status=206,
    outcome=Outcome.CLIENT_GONE,
    reason="connection reset",
    body_sent=1_500_000,
    body_promised=2_000_000,
    started=1_795_343_938.75,
    duration=1.5,
    request_headers=(
        (b"host", b"example.org"),
        (b"referer", b"http://example.org/"),
        (b"user-agent", b"curl/8.5"),
        (b"x-forwarded-for", b"198.51.100.1"),
        (b"x-forwarded-for", b"198.51.100.2"),
    ),
    response_headers=((b"content-type", b"text/plain"),),
    environ={"SCRIPT_NAME": "/app", "number": 3},
)


def line(text: str, **changes: object) -> str:
    return compile_format(text)(dataclasses.replace(RECORD, **changes))  # type: ignore[arg-type]


def basic(user: bytes) -> dict[str, object]:
    return {"request_headers": ((b"authorization", b"Basic " + base64.b64encode(user)),)}


TABLE: list[tuple[str, dict[str, object], str]] = [
    ("%(h)s", {}, "192.0.2.7"),
    ("%(h)s", {"peer": ""}, "-"),
    ("%(l)s", {}, "-"),
    ("%(u)s", {}, "-"),
    ("%(u)s", basic(b"ann:secret"), "ann"),  # RFC 7617 §2: up to the first colon
    ("%(u)s", basic(b"ann"), "-"),
    ("%(u)s", basic(b":secret"), "-"),
    ("%(u)s", basic(b'ann [x] "GET:s'), r"ann\x20[x]\x20\x22GET"),
    ("%(u)s", basic(b"\xc3\xa9\n:s"), r"\xC3\xA9\x0A"),
    ("%(u)s", {"request_headers": ((b"authorization", b"Basic ???"),)}, "-"),
    ("%(u)s", {"request_headers": ((b"authorization", b"Bearer YW5uOnM="),)}, "-"),
    ("%(u)s", {"request_headers": ((b"authorization", b"bAsIc  YW5uOnM="),)}, "ann"),
    ("%(r)s", {}, "GET /files/a%20b.iso?part=1&q HTTP/1.1"),
    ("%(r)s", {"method": "", "target": "", "version": ""}, "-"),
    ("%(r)s", {"target": '/"\\\r\n\x00\x7f\x80\xff'}, r"GET /\x22\x5C\x0D\x0A\x00\x7F\x80\xFF HTTP/1.1"),
    ("%(m)s", {}, "GET"),
    ("%(U)s", {}, "/files/a%20b.iso"),
    ("%(U)s", {"target": "http://example.org/x?y"}, "/x"),  # RFC 9112 §3.2.2
    ("%(U)s", {"target": "http://example.org"}, "-"),
    ("%(U)s", {"target": "/go?to=http://a/b"}, "/go"),
    ("%(U)s", {"target": "*"}, "*"),
    ("%(q)s", {}, "part=1&q"),
    ("[%(q)s]", {"target": "/"}, "[]"),  # as gunicorn: empty, so that %(U)s?%(q)s stays readable
    ("%(H)s", {}, "HTTP/1.1"),
    ("%(s)s", {}, "206"),
    ("%(s)s", {"status": 0}, "000"),
    ("%(B)s", {"body_sent": 0}, "0"),
    ("%(b)s", {"body_sent": 0}, "-"),
    ("%(b)s", {}, "1500000"),
    ("%(f)s", {}, "http://example.org/"),
    ("%(a)s", {}, "curl/8.5"),
    ("%(a)s", {"request_headers": ((b"user-agent", b""),)}, "-"),
    ("%(T)s", {}, "1"),
    ("%(M)s", {}, "1500"),
    ("%(D)s", {}, "1500000"),
    ("%(L)s", {}, "1.500000"),
    pytest.param(
        "%(p)s", {}, f"<{os.getpid()}>", id="pid"
    ),  # the processes that share the tests must agree on its name
    ("%({User-Agent}i)s", {}, "curl/8.5"),
    ("%({x-forwarded-for}i)s", {}, "198.51.100.1, 198.51.100.2"),
    ("%({x-none}i)s", {}, "-"),
    ("%({Content-Type}o)s", {}, "text/plain"),
    ("%({SCRIPT_NAME}e)s", {}, "/app"),
    ("%({number}e)s", {}, "3"),
    ("%({script_name}e)s", {}, "/app"),  # gunicorn does not look at the case
    ("%({NUMBER}e)s %({n}e)s", {"environ": {"N": "other", "n": "exact", "nUMBER": 4}}, "4 exact"),
    ("%({none}e)s", {}, "-"),
    ("%({n}e)s", {"environ": {"n": "€\ud800"}}, r"\xE2\x82\xAC\xED\xA0\x80"),
    ("%(outcome)s", {}, "client-gone"),
    ("%(reason)s", {}, "connection reset"),
    ("%(reason)s", {"reason": 'bad "\n'}, r"bad \x22\x0A"),
    ("%(sent)s/%(promised)s", {}, "1500000/2000000"),
    ("%(promised)s", {"body_promised": None}, "-"),
    ("%(rate)s", {}, "1000000"),
    ("%(rate)s", {"duration": 0.0}, "-"),
    ("100%% %(s)s%%", {}, "100% 206%"),
    ("", {}, ""),
    ("no atoms", {}, "no atoms"),
]


@pytest.mark.parametrize(("text", "changes", "expected"), TABLE)
def test_atom(text: str, changes: dict[str, object], expected: str) -> None:
    assert line(text, **changes) == expected


@pytest.mark.parametrize(("zone", "expected"), [("UTC", "+0000"), ("EST5EDT", "-0500"), ("<+0545>-5:45", "+0545")])
def test_time_is_local_and_says_its_zone(zone: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        started = 1_700_000_000.9 + len(zone)  # a second of its own: they are cached
        at = time.strftime("%d/%b/%Y:%H:%M:%S", time.localtime(started))
        assert line("%(t)s", started=started) == f"[{at} {expected}]"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_default_format_still_reads_as_combined() -> None:
    """Parsers of the combined log format match its fields in front; ours follow."""
    combined = re.compile(r'(\S+) (\S+) (\S+) \[([^]]+)\] "([^"]*)" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"')
    text = line(DEFAULT_FORMAT)
    match = combined.match(text)
    assert match is not None
    assert match[6] == "206"
    assert text[match.end() :] == " outcome=client-gone promised=2000000 seconds=1.500000"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%(outcom)s", ["%(outcom)s", "did you mean %(outcome)s?"]),
        ("%(Z)s", ["%(Z)s", "there are h l u t"]),
        ("%(s)d", ["'%(s)d'", "write %(name)s"]),
        ("50%", ["'%'", "%% for a percent sign"]),
        ("%h", ["'%h'"]),
        ("%({x}z)s", ["%({x}z)s"]),
        ("%({}i)s", ["%({}i)s"]),
        ("%(h", ["'%(h'"]),
        ("a%(m)s\n%(U)s\n", [r"'a%(m)s\n%(U)s' has a line end", "write it in one line"]),
        ("%(m)s\r%(U)s", [r"'%(m)s\r%(U)s' has a line end"]),
        ("%({X\n}i)s", ["has a line end"]),
    ],
)
def test_a_wrong_format_is_refused_when_compiled(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as info:
        compile_format(text)
    for word in words:
        assert word in str(info.value)


def test_line_ends_around_a_format_are_none_of_it() -> None:
    """A text of TOML between three quotes ends with one: each request would have an empty line."""
    assert line('\n{"s": %(s)s}\r\n') == '{"s": 206}'


@given(st.text(), st.text(), st.binary(), st.binary(), st.text())
def test_no_client_breaks_a_line(method: str, target: str, agent: bytes, credentials: bytes, reason: str) -> None:
    """Whatever the client sends: one line of printable ASCII, and as many quotes as the format has."""
    text = line(
        DEFAULT_FORMAT + ' "%(reason)s" %({User-Agent}i)s',
        method=method,
        target=target,
        reason=reason,
        request_headers=(
            (b"user-agent", agent),
            (b"referer", agent),
            (b"authorization", b"basic " + base64.b64encode(credentials)),
        ),
    )
    assert text.isascii() and text.isprintable()
    assert text.count('"') == 8
    assert len(text.split('"')[0].split()) == 5  # peer, -, user and the two halves of the time


@given(st.text(), st.text(), st.binary(), st.text(), st.sampled_from([0, 200]))
def test_a_line_of_json_is_json_whatever_clients_send(
    method: str, target: str, agent: bytes, reason: str, status: int
) -> None:
    """A format that begins with a brace: nothing in a line but JSON's own escapes, and each byte is found again."""
    text = line(
        ' {"m":"%(m)s","r":"%(r)s","q":"%(q)s","a":"%(a)s","why":"%(reason)s","s":%(s)s,"t":%(L)s,"n":"%({X}e)s"}',
        method=method,
        target=target,
        reason=reason,
        status=status,
        request_headers=((b"user-agent", agent),),
        environ={"X": target},
    )
    assert text.isascii() and text.isprintable()
    read = json.loads(text)
    assert read["a"].encode("latin-1") == (agent or b"-")
    assert read["s"] == status
