"""What cannot be sent as it was meant is refused with the reason, before a byte has left."""

from __future__ import annotations

import io
from typing import IO

import pytest
import trio
from sendfile_wires import PLENTY, Pair, drain

from sendfile import FileSpan, Pump, send_nowait


@pytest.mark.parametrize("kind", ["tuple", "bytes", "bytearray", "span", "iterator"])
async def test_parts_that_cannot_be_consumed_in_place(pump: Pump, pair: Pair, noise: IO[bytes], kind: str) -> None:
    """A tuple went out whole, and then its items could not be taken off."""
    parts = {
        "tuple": (b"x", b"y"),
        "bytes": b"xy",
        "bytearray": bytearray(b"xy"),
        "span": FileSpan(noise, 0, 2),
        "iterator": iter([b"x", b"y"]),
    }[kind]
    with pytest.raises(TypeError, match="a deque or a list"):
        await pump.deliver(pair[0], parts)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a deque or a list"):
        pump.push_nowait(pair[0], parts)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a deque or a list"):
        send_nowait(pair[0], parts)  # type: ignore[arg-type]
    assert drain(pair[1]) == 0


async def test_a_pump_delivers_for_its_own_event_loop(pump: Pump, pair: Pair) -> None:
    """Nothing could wake a task of another loop."""

    async def deliver() -> None:
        with trio.fail_after(5):
            await pump.deliver(pair[0], [PLENTY])

    with pytest.raises(RuntimeError, match="the event loop of another thread"):
        await trio.to_thread.run_sync(trio.run, deliver)
    assert drain(pair[1]) == 0


@pytest.mark.parametrize(("offset", "count"), [(0.5, 3), (0, 3.0), ("0", 3), (0, None)], ids=str)
def test_a_span_is_of_whole_bytes(noise: IO[bytes], offset: int, count: int) -> None:
    """Such as half of a file: it was found out by the kernel's path, in words of sendfile(2)."""
    with pytest.raises(TypeError, match="must be a whole number of bytes"):
        FileSpan(noise, offset, count)


@pytest.mark.parametrize("file", [io.BytesIO(b"abc"), io.StringIO("abc")], ids=["bytes", "text"])
def test_a_span_is_of_a_file_that_the_kernel_knows(file: IO[bytes]) -> None:
    """These have a `fileno`, which only raises, and says no more than its name."""
    with pytest.raises(TypeError, match="pass the bytes"):
        FileSpan(file, 0, 3)
