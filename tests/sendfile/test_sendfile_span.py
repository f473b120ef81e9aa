"""FileSpan is a value: its bounds, split and advance."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendfile import FileSpan, Part
from sendfile.parts import consume, size


class NamedOnly:
    """Stands for an open file where nobody reads it."""

    def fileno(self) -> int:
        raise AssertionError("a span must not ask for the descriptor before it is sent")


FILE = NamedOnly()


@pytest.mark.parametrize(("offset", "count"), [(-1, 0), (0, -1), (2**63 - 1, 1), (0, 2**63)], ids=str)
def test_bounds_are_those_of_off_t(offset: int, count: int) -> None:
    with pytest.raises(ValueError, match="no such span"):
        FileSpan(FILE, offset, count)


def test_a_bare_descriptor_is_refused() -> None:
    with pytest.raises(TypeError, match="fileno"):
        FileSpan(3, 0, 1)  # type: ignore[arg-type]


def test_a_span_is_frozen_and_has_no_dict() -> None:
    span = FileSpan(FILE, 0, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        span.count = 2  # type: ignore[misc]
    assert not hasattr(span, "__dict__")


def test_a_span_longer_than_4_gib_has_its_length() -> None:
    assert len(FileSpan(FILE, 2**40, 2**62)) == 2**62


@given(st.integers(0, 2**62), st.integers(0, 2**40), st.data())
def test_split_and_advance_lose_nothing(offset: int, count: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, count))
    span = FileSpan(FILE, offset, count)
    first, rest = span.split(n)
    assert (first.offset, first.count, rest.count) == (offset, n, count - n)
    assert rest.offset == first.offset + first.count
    assert span.advance(n) == rest


@pytest.mark.parametrize("n", [-1, 6])
def test_split_and_advance_stay_inside(n: int) -> None:
    span = FileSpan(FILE, 10, 5)
    with pytest.raises(ValueError, match="cannot split"):
        span.split(n)
    with pytest.raises(ValueError, match="cannot advance"):
        span.advance(n)


def test_a_memoryview_counts_bytes_and_not_items() -> None:
    words = memoryview(b"abcdefgh").cast("I")
    assert (len(words), size(words)) == (2, 8)
    parts: list[Part] = [words]
    consume(parts, 3)
    assert parts == [b"defgh"]


def test_the_span_does_not_close_its_file() -> None:
    with tempfile.TemporaryFile() as file:
        FileSpan(file, 0, 0).advance(0)
        assert still_open(file)


def still_open(file: IO[bytes]) -> bool:
    return file.fileno() >= 0
