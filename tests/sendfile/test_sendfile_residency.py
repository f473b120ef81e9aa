"""What is believed to be in memory: how it is looked at, how far, and for how long it is believed."""

from __future__ import annotations

from typing import IO

import pytest
from sendfile_disks import Untold

from sendfile import FileSpan
from sendfile.disk import Disk
from sendfile.residency import Frontier, Residency

KIB = 1 << 10


class Map(Disk):
    """In memory is what the test says."""

    def __init__(self, *warm: tuple[int, int]) -> None:
        self.warm = list(warm)
        self.probes = 0

    def probe(self, fd: int, offset: int) -> bool | None:
        self.probes += 1
        return any(first <= offset < end for first, end in self.warm)


@pytest.mark.parametrize(
    ("warm", "offset", "count", "expected"),
    [
        ([], 0, 1, 0),
        ([(0, 4096)], 0, 4096, 4096),
        ([(0, 4096)], 10, 100, 100),
        ([(0, 4096)], 0, 4097, 0),  # the last byte is not
        ([(0, 256 * KIB)], 0, 256 * KIB, 256 * KIB),
        ([(0, 300 * KIB)], 0, 1 << 20, 256 * KIB),  # up to the last page that was seen
        ([(0, 1 << 20)], 1 << 20, 5, 0),
        ([(0, 1 << 30)], 77, 8 << 20, 8 << 20),
    ],
)
def test_bytes_between_two_pages_in_memory_count_as_such(
    warm: list[tuple[int, int]], offset: int, count: int, expected: int
) -> None:
    assert Residency(Map(*warm)).warm(0, offset, count, 0) == expected


def test_the_further_it_gets_the_rarer_it_asks(noise: IO[bytes]) -> None:
    disk = Map((0, 1 << 40))
    frontier, residency = Frontier(), Residency(disk)
    span = FileSpan(noise, 0, 1 << 30)
    while span.count:
        span = span.advance(min(1 << 20, frontier.warm(residency, span, 0)))
    assert disk.probes < 1000, "less than one probe per step of 1 MiB"


def test_what_was_found_is_believed_for_a_second(noise: IO[bytes]) -> None:
    disk = Map((0, 1 << 40))
    frontier, residency = Frontier(), Residency(disk)
    small = FileSpan(noise, 0, 100_000)
    assert frontier.warm(residency, small, 0) == 100_000
    disk.warm = []
    assert frontier.warm(residency, small.advance(10), 0.9) == 99_990
    assert frontier.warm(residency, small.advance(10), 1.1) == 0
    assert frontier.wanted(small.advance(10)) == 99_990


def test_where_nobody_can_tell_a_fast_fetch_speaks_for_the_next_64_mib(noise: IO[bytes]) -> None:
    for seconds, expected in ((1e-4, 8 << 20), (0.1, 0)):
        residency = Residency(Untold())
        fd = noise.fileno()
        residency.remember(fd, 0, 1 << 20, seconds, 5)
        assert residency.warm(fd, 0, 1 << 20, 6) == 1 << 20
        assert residency.warm(fd, 1 << 20, 8 << 20, 6) == expected
        assert residency.warm(fd, 0, 1 << 20, 16) == 0, "believed for ten seconds"


def test_what_was_not_fetched_is_not_remembered(noise: IO[bytes]) -> None:
    """The next delivery of the file is not told that it is in memory; this one believes it for a second."""
    frontier, residency = Frontier(), Residency(Untold())
    span = FileSpan(noise, 0, 3_000_000)
    frontier.dare(span, 5)
    assert frontier.warm(residency, span, 5) == 256 * KIB
    assert frontier.warm(residency, span, 7) == 0
    assert Frontier().warm(residency, span, 5) == 0
