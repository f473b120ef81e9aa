"""What the text of a setting must look like, where its kind alone does not tell.

Laws:

* Each check takes one value, returns nothing, and raises ValueError with the value and what to write instead.
* It looks at the text only: whether a file, a user or an address is there is found out by who uses it.
* What the system is to be told by a text (a path, a name, a variable) can be told to it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from urllib.parse import quote

from trio_wsgi.address import parse_address
from trio_wsgi.cpulist import parse_cpus
from trio_wsgi.rules.forwarded import parse_names
from trio_wsgi.rules.grammar import HEADER_NAME
from trio_wsgi.rules.paths import split_prefix
from trio_wsgi.rules.proxies import parse_proxies


def check_told(text: str) -> None:
    """For what is told to the system, which takes no NUL there, and of Python only what its encoding has."""
    if "\0" in text:
        raise ValueError(f"{text!r} has a NUL, which ends every text of the system; leave it out")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        beyond, encoding = text[error.start], sys.getfilesystemencoding()
        fix = "leave it out" if encoding == "utf-8" else "start in a locale of UTF-8, or with PYTHONUTF8=1"
        raise ValueError(f"{text!r} has {beyond!a}, and names and paths are {encoding} here; {fix}") from None


def check_told_pair(pair: tuple[str, str]) -> None:
    for text in pair:
        check_told(text)


def check_address(text: str) -> None:
    check_told(parse_address(text).path)


def check_prefix(text: str) -> None:
    if text and (not text.startswith("/") or text.endswith("/") or "?" in text or "#" in text):
        raise ValueError(f"{text!r} is not a path prefix; write it as /app: a leading slash, none at the end")
    if re.search("%[0-9A-Fa-f]{2}", text):
        raise ValueError(f"{text!r} is percent-encoded; write it as the application is to see it")
    _refuse_dots(text, text)


def check_mount(text: str) -> None:
    prefix, equals, directory = text.partition("=")
    if not (prefix.startswith("/") and equals and directory) or "?" in prefix or "#" in prefix:
        raise ValueError(f"{text!r} is not a mount; write /url=DIR")
    if not prefix.isascii():
        raise ValueError(
            f"{text!r} has a URL beyond ASCII; percent-encode it: {quote(_encode(prefix), '/%')}={directory}"
        )
    check_told(directory)
    _refuse_dots(prefix, text)


def _encode(text: str) -> bytes:
    """Its bytes, whether it comes from UTF-8 or from a command line in any locale."""
    return text.encode(errors="surrogateescape")


def check_mounts_apart(mounts: Iterable[str]) -> None:
    """One URL is one directory: of two, one would never be asked."""
    seen: dict[tuple[bytes, ...], str] = {}
    for text in mounts:
        other = seen.setdefault(split_prefix(_encode(text.partition("=")[0])), text)
        if other is not text:
            raise ValueError(f"{text!r} and {other!r} are at one URL; give each its own")


def _refuse_dots(path: str, text: str) -> None:
    if {b".", b".."}.intersection(split_prefix(_encode(path))):
        raise ValueError(f"{text!r} has a dot segment, which no client sends; write the path that it leads to")


def check_header_name(text: str) -> None:
    if text and HEADER_NAME.fullmatch(text) is None:
        raise ValueError(f"{text!r} cannot be a header's name; write a token such as X-Timeout")


def check_reference(text: str) -> None:
    module, colon, attribute = text.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{text!r} does not name a callable; write module:callable")


def check_header_value(text: str) -> None:
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError(f"{text!r} cannot be a header's value; write printable ASCII")


def check_mode(text: str, example: str = "660") -> None:
    if text and re.fullmatch(r"(0o)?[0-7]{1,4}", text) is None:
        raise ValueError(f"{text!r} is no octal mode; write three digits from 0 to 7, such as {example}")


def check_umask(text: str) -> None:
    check_mode(text, "027")  # what is taken away


def check_affinity(text: str) -> None:
    if text not in {"auto", "off"}:
        parse_cpus(text)


def check_health_path(text: str) -> None:
    if text and (not text.startswith("/") or not text.isascii() or "?" in text or "#" in text or " " in text):
        raise ValueError(f"{text!r} is not a path; write it as /health")


def check_networks(text: str) -> None:
    parse_proxies([text])


def check_proxy_headers(text: str) -> None:
    parse_names([text])


def check_variable(pair: tuple[str, str]) -> None:
    if pair[0].startswith(("wsgi.", "trio_wsgi.")):
        raise ValueError(f"{pair[0]!r} belongs to the server (PEP 3333); choose another name")
