"""What a server sent, read by h11 as a strict client: whoever frames an answer wrongly fails here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import h11


@dataclass
class Answer:
    """One final response, with the interim ones before it."""

    status: int
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    interim: list[int] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """The values of all headers called `name`."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.lower().encode()]

    def value(self, name: str) -> str:
        """The value of the header that has to be there exactly once."""
        (value,) = self.values(name)
        return value

    @property
    def closes(self) -> bool:
        """Whether it announces the end of the connection."""
        return [value.lower() for value in self.values("connection")] == ["close"]


def read_answers(raw: bytes, methods: Sequence[str]) -> list[Answer]:
    """The answers to requests with these methods, which must be all that was sent, each whole.

    Raises:
        h11.RemoteProtocolError: the framing is wrong, or an answer is cut.
        AssertionError: bytes follow the last answer.
    """
    answers = []
    for number, method in enumerate(methods):
        answer, raw = _read_one(raw, method)
        answers.append(answer)
        if not raw and number + 1 < len(methods):
            break  # fewer answers than asked for: the caller looks at their number
    assert raw == b"", f"bytes after the last answer: {raw[:200]!r}"
    return answers


def read_answer(raw: bytes, method: str = "GET") -> Answer:
    """The one answer that `raw` has to be."""
    (answer,) = read_answers(raw, [method])
    return answer


def _read_one(raw: bytes, method: str) -> tuple[Answer, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    interim: list[int] = []
    answer: Answer | None = None
    while True:
        event = client.next_event()
        if type(event) is h11.InformationalResponse:
            interim.append(event.status_code)
        elif type(event) is h11.Response:
            answer = Answer(event.status_code, event.http_version.decode(), list(event.headers), interim=interim)
        elif type(event) is h11.Data:
            assert answer is not None
            answer.body += event.data
        elif type(event) is h11.EndOfMessage:
            assert answer is not None
            return answer, client.trailing_data[0]
        else:
            raise h11.RemoteProtocolError(f"no whole answer to {method}, but {event!r}: {raw[:200]!r}")
