"""How an application is asked: the request beyond its target, and the status that it is to be answered with.

Laws:
- A user's body is that of a file, the same in every request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Asking:
    """What a user says of requests to an application of their own; all others are made as by default.

    Attributes:
        method: "" where nobody has chosen one: GET, but POST for what a scenario uploads.
        headers: "Name: value".
        body: a file with it.
        status: of the answer.
    """

    method: str = ""
    headers: tuple[str, ...] = ()
    body: Path | None = None
    status: int = 200

    @property
    def length(self) -> int:
        """Bytes of the body; 0 without any."""
        return self.body.stat().st_size if self.body else 0

    def settings(self) -> dict[str, Any]:
        """For clients (clients/talk.py)."""
        return {
            "method": self.method,
            "headers": self.headers,
            "body_file": str(self.body or ""),
            "status": self.status,
        }

    def describe(self) -> str:
        """What is not as by default, to stand after the target: headers without their values, which may be secret."""
        parts = [
            f" by {self.method}" if self.method else "",
            f" with the {self.length:,} bytes of {self.body.name}" if self.body else "",
            *(f", {line.partition(':')[0]}" for line in self.headers),
            f", answered with {self.status}" if self.status != 200 else "",
        ]
        return "".join(parts)


BY_DEFAULT = Asking()


def choose_method(method: str, body: bool) -> str:
    """That of a request whose method may be left open (""): POST with a body, else GET."""
    return method or ("POST" if body else "GET")
