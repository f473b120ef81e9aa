"""Which of the encodings that a file is there in a client gets: Accept-Encoding (RFC 9110, section 12.5.3).

Law: nothing a client sends raises, and what cannot be read is as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trio_wsgi.rules.grammar import TOKEN

_TOKEN = re.compile(TOKEN.encode())
_WEIGHT = re.compile(rb"[qQ]=(?:(0)(?:\.([0-9]{0,3}))?|1(?:\.0{0,3})?)")  # section 12.4.2
_ALIASES = {"x-gzip": "gzip", "x-compress": "compress"}  # section 8.4.1: to be taken for the same
_MOST = 1000  # the weight 1, in thousandths


def parse_accept_encoding(value: bytes) -> dict[str, int]:
    """Read Accept-Encoding.

    Returns:
        The weight of each coding named, lower-case, in thousandths; ``*`` and ``identity`` among them. Of a
        coding named twice the first counts.
    """
    weights: dict[str, int] = {}
    for element in value.split(b","):
        coding, semicolon, parameter = (part.strip(b" \t") for part in element.partition(b";"))
        if not _TOKEN.fullmatch(coding):
            continue
        weight = _MOST
        if semicolon:
            found = _WEIGHT.fullmatch(parameter)
            if found is None:
                continue
            if found[1]:
                weight = int((found[2] or b"").ljust(3, b"0"))
        name = coding.decode("ascii").lower()
        weights.setdefault(_ALIASES.get(name, name), weight)
    return weights


def choose_encoding(accept_encoding: bytes | None, available: Sequence[str]) -> str | None:
    """Choose the encoding to send.

    Args:
        accept_encoding: the combined value of the header; None if there is none.
        available: the content codings there are, lower-case (``br``, ``zstd``, ``gzip``), the server's
            favourite first; it decides between equal weights. The file itself (identity) is there anyway.

    Returns:
        One of `available`, or None for the file itself. Where nothing that the client accepts is there, the
        file itself is sent too, as section 12.5.3 advises. Without a header nothing is encoded: the client
        may be any. The answer needs ``Vary: Accept-Encoding`` whenever `available` is not empty, whatever was
        chosen.
    """
    if accept_encoding is None or not available:
        return None
    weights = parse_accept_encoding(accept_encoding)
    others = weights.get("*", 0)
    best = max(available, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    # identity is always acceptable, but preferred only if the client names it with more weight.
    return best if weight > 0 and weight >= weights.get("identity", 0) else None
