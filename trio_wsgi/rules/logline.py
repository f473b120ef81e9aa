"""One line of the access log from the record of a request.

Laws:

* A format is compiled once; what is wrong with it is a `ValueError` then, never a surprise while serving.
* One record is one line of printable ASCII: everything that came from the client or the application has its
  quotes, backslashes, controls and other bytes written as ``\\xNN``: a line can be neither broken nor forged.
* A format that begins with ``{`` writes JSON: there these are ``\\u00NN``, still one for each byte.
* What is not known is ``-``; the status of a request that got no answer is ``000``, in JSON ``0``: columns keep their
  type.

Atoms are gunicorn's (h l u t r m U q H s B b f a T M D L p, {header}i, {header}o, {variable}e), and ours:
outcome, reason, sent, promised, rate.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import functools
import os
import re
import time
from collections.abc import Callable, Mapping

from trio_wsgi.record import RequestRecord
from trio_wsgi.rules.dates import MONTHS

Atom = Callable[[RequestRecord], str]

# The combined log format first, so that its parsers go on working; what we add stands at the end.
DEFAULT_FORMAT = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
    " outcome=%(outcome)s promised=%(promised)s seconds=%(L)s"
)

_PLACE = re.compile(r"%(?:%|\((?P<name>[^)]+)\)s|)")
_LINE_END = re.compile(r".{0,12}[\r\n].{0,12}")
_ONE_LINE = "write it in one line: in TOML, between three quotes, a backslash at the end of a line joins it to the next"
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")
_UNSAFE_BARE = re.compile(r"[^!#-\[\]-~]")  # where the usual formats put no quotes around, a space forges too


def compile_format(text: str) -> Atom:
    """Turn a format into the function that writes a line.

    Args:
        text: gunicorn's syntax: ``%(atom)s`` and ``%%``; anything else stands for itself. Line ends around it, as a
            text of TOML in several lines has, are none of it.

    Returns:
        A function of a record, giving the line without a line end.

    Spec: RFC 8259 §6 and §7, for JSON. What may be unknown, as %(promised)s, stands in quotes there.

    Raises:
        ValueError: no such atom (with the nearest name), a stray percent sign, or a line end; and what to write.
    """
    text = text.strip("\r\n")
    if within := _LINE_END.search(text):
        raise ValueError(f"{within[0]!r} has a line end in it; {_ONE_LINE}")
    pieces: list[str] = []
    atoms: list[Atom] = []
    end = 0
    for place in _PLACE.finditer(text):
        pieces.append(text[end : place.start()])
        end = place.end()
        if place["name"] is not None:
            pieces.append("%s")
            atoms.append(_find_atom(place["name"]))
        elif place[0] == "%%":
            pieces.append("%%")
        else:
            around = text[place.start() : place.start() + 12]
            raise ValueError(f"{around!r} is not an atom; write %(name)s, or %% for a percent sign")
    template = "".join([*pieces, text[end:]])
    if writes_json(text):
        atoms = [_as_json(atom) for atom in atoms]

    def line(record: RequestRecord) -> str:
        return template % tuple([atom(record) for atom in atoms])

    return line


def writes_json(text: str) -> bool:
    """Whether lines of this format are JSON."""
    return text.lstrip().startswith("{")


def _as_json(atom: Atom) -> Atom:
    """The same within JSON, whose strings know no ``\\xNN`` and whose numbers begin with no zero."""
    if atom is _status:
        return lambda record: str(record.status)
    return lambda record: atom(record).replace("\\x", "\\u00")  # each backslash of an atom is one of `escape`


def reads(text: str, kind: str) -> bool:
    """Whether a format asks for a thing of this kind: a header of the request ("i") or the response ("o"), a variable
    of the environ ("e")."""
    return any((place["name"] or "").endswith("}" + kind) for place in _PLACE.finditer(text))


def escape(text: str) -> str:
    """The text as printable ASCII; quotes, backslashes and the others as ``\\xNN`` (latin-1, else UTF-8)."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text  # nearly always: half the time of the expression
    return _UNSAFE.sub(_escape_match, text)


def _escape_match(match: re.Match[str]) -> str:
    character = match[0]
    raw = character.encode("latin-1") if character <= "\xff" else character.encode("utf-8", "surrogatepass")
    return "".join([f"\\x{byte:02X}" for byte in raw])


def _find_atom(name: str) -> Atom:
    if name in _ATOMS:
        return _ATOMS[name]
    braced = re.fullmatch(r"\{(.+)\}([ioe])", name)
    if braced is None:
        near = difflib.get_close_matches(name, _ATOMS, n=1)
        hint = (
            f"did you mean %({near[0]})s?"
            if near
            else "there are " + " ".join([*_ATOMS, "{header}i {header}o {name}e"])
        )
        raise ValueError(f"%({name})s is not an atom; {hint}")
    return _BRACED[braced[2]](braced[1])


# Atoms that take a name.


def _request_header(name: str) -> Atom:
    key = name.lower().encode("latin-1", "replace")
    return lambda record: _header(record.request_headers, key)


def _response_header(name: str) -> Atom:
    key = name.lower().encode("latin-1", "replace")
    return lambda record: _header(record.response_headers, key)


def _variable(name: str) -> Atom:
    """Of any case, as with gunicorn, but the exact name counts first."""
    lower = name.lower()

    def read(record: RequestRecord) -> str:
        value = record.environ.get(name)
        if value is None:
            value = next((value for key, value in record.environ.items() if key.lower() == lower), None)
        return "-" if value is None else escape(str(value)) or "-"

    return read


def _header(headers: tuple[tuple[bytes, bytes], ...], key: bytes) -> str:
    found = b""
    for name, value in headers:
        if name == key:
            found = found + b", " + value if found else value
    return escape(found.decode("latin-1")) if found else "-"


# Atoms that take more than a line.


def _user(record: RequestRecord) -> str:
    """The user of Basic authorization (RFC 7617 §2); only claimed unless the application checked it."""
    for name, value in record.request_headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() != b"basic":
                break
            try:
                user, colon, _ = base64.b64decode(credentials.strip(), validate=True).partition(b":")
            except binascii.Error:
                break
            return _UNSAFE_BARE.sub(_escape_match, user.decode("latin-1")) or "-" if colon else "-"
    return "-"


def _path(record: RequestRecord) -> str:
    """The path of the target; of an absolute one (RFC 9112 §3.2.2) what follows the authority."""
    path = record.target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        _, slash, rest = path.partition("://")[2].partition("/")
        path = slash + rest
    return escape(path) or "-"


@functools.lru_cache(maxsize=64)
def _clock_time(second: int) -> str:
    """``[22/Nov/2026:10:38:58 +0000]``, in local time."""
    at = time.localtime(second)
    sign, minutes = "-" if at.tm_gmtoff < 0 else "+", abs(at.tm_gmtoff) // 60
    day = f"{at.tm_mday:02d}/{MONTHS[at.tm_mon - 1]}/{at.tm_year:04d}"
    zone = f"{sign}{minutes // 60:02d}{minutes % 60:02d}"
    return f"[{day}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} {zone}]"


def _status(record: RequestRecord) -> str:
    return f"{record.status:03d}"


_ATOMS: Mapping[str, Atom] = {
    "h": lambda record: escape(record.peer) or "-",
    "l": lambda record: "-",
    "u": _user,
    "t": lambda record: _clock_time(int(record.started)),
    "r": lambda record: escape(f"{record.method} {record.target} {record.version}") if record.method else "-",
    "m": lambda record: escape(record.method) or "-",
    "U": _path,
    "q": lambda record: escape(record.target.partition("?")[2]),
    "H": lambda record: escape(record.version) or "-",
    "s": _status,
    "B": lambda record: str(record.body_sent),
    "b": lambda record: str(record.body_sent) if record.body_sent else "-",
    "f": _request_header("Referer"),
    "a": _request_header("User-Agent"),
    "T": lambda record: str(int(record.duration)),
    "M": lambda record: str(int(record.duration * 1_000)),
    "D": lambda record: str(int(record.duration * 1_000_000)),
    "L": lambda record: f"{record.duration:.6f}",
    "p": lambda record: f"<{os.getpid()}>",
    "outcome": lambda record: record.outcome.value,
    "reason": lambda record: escape(record.reason) or "-",
    "sent": lambda record: str(record.body_sent),
    "promised": lambda record: "-" if record.body_promised is None else str(record.body_promised),
    # bytes a second, over the whole request
    "rate": lambda record: str(int(record.body_sent / record.duration)) if record.duration > 0 else "-",
}
_BRACED: Mapping[str, Callable[[str], Atom]] = {"i": _request_header, "o": _response_header, "e": _variable}
