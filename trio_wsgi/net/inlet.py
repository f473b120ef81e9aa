"""The request's body: read while it arrives by the app's thread, or gathered before a thread is taken.

Laws:

* `100 Continue` is sent when the body is asked for, and not before (RFC 9110 §10.1.1). A request that expects it is
  therefore never gathered ahead.
* Gathering waits on the loop; a thread is used only for what touches the disk. However fast a client sends, others get
  their turn.
* Whoever gathered a body closes it.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import IO, TypeVar, TypeVarTuple

import trio

from trio_wsgi.disk.spool import Block, Spool
from trio_wsgi.errors import ClientError, ClientGone, ClientStalled, NoRoom, find_lack
from trio_wsgi.net.appthread import AppThread
from trio_wsgi.net.buffers import Buffers
from trio_wsgi.net.inthread import run_in_thread
from trio_wsgi.net.turn import Turn
from trio_wsgi.net.wire import Wire
from trio_wsgi.wsgi import bridge

WRITE_SIZE = 1024 * 1024  # bytes gathered before a thread is asked to put them on disk
LARGE = 256 * 1024  # bytes that have come at once, and go there without being copied
SMALL = 16 * 1024  # bytes of a block below which it is copied
UNREAD_MAX = 64 * 1024  # bytes of a body that nobody has read, beyond which a connection is not worth reading them
_PIECES = 64  # received at once into one buffer: TLS gives a record at a time, which may hold a byte

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ArrivingBody:
    """The body as the application's thread receives it (`wsgi.ports.Inlet`).

    Args:
        wire: of the connection; the thread owns it.
        timeout: seconds without a byte (body_timeout).
        write_timeout: seconds for a client that does not take the `100 Continue`.
        expects_continue: whether the client waits for it.
        thread: of the application.
    """

    def __init__(
        self, wire: Wire, timeout: float, write_timeout: float, expects_continue: bool, thread: AppThread
    ) -> None:
        self._wire = wire
        self.loop_thread = wire.transport.loop_thread
        self._thread = thread
        self._timeout = timeout
        self._write_timeout = write_timeout
        self.expects_continue = expects_continue
        self.failure: ClientError | ClientGone | None = None
        self._broken: Exception | None = None  # what else a read failed with: whoever buffers may have lost bytes
        self._parsed = memoryview(b"")  # bytes that the app has not taken yet
        self._closed = False

    def close(self) -> None:
        """The request is over: whoever reads on must not get the next one's body."""
        self._closed = True
        self._broken = None  # it refers to its frames, and they to this

    def receive_into(self, buffer: memoryview) -> int:
        """See `wsgi.ports.Inlet`."""
        bridge.check_cancelled()
        if self._closed:
            raise ValueError("the request is over, and with it its wsgi.input")
        if self.failure is not None:
            raise copy(self.failure)
        if self._broken is not None:
            raise self._broken
        try:
            if self.expects_continue:
                self.expects_continue = False
                self._send_continue()
            while True:
                try:
                    return self._receive_nowait(buffer)
                except trio.WouldBlock:
                    self._thread.wait(wait_body, self._wire, self._timeout)
        except (ClientError, ClientGone) as exc:
            self.failure = copy(exc)  # without the frames that this one comes through: they hold us
            raise
        except Exception as exc:
            self._broken = exc
            raise

    def _receive_nowait(self, buffer: memoryview) -> int:
        wire = self._wire
        if wire.transport.duplex:
            return self._take(buffer, wire.receive_body_into)
        # The loop may be sending what the app has lent it, and what is not duplex does not bear that in two threads.
        # Each hop brings all that has come: TLS gives 16 KiB at a time.
        taken = self._thread.run_on_loop(self._take_on_loop, buffer)
        if isinstance(taken, int):
            return taken
        try:
            raise taken
        finally:
            del taken

    def _take_on_loop(self, buffer: memoryview) -> int | trio.WouldBlock | ClientError | ClientGone:
        """Returns what is to be raised: what is raised here leaves a cycle of Trio's frames, in each of these hops."""
        try:
            return self._take(buffer, partial(_fill, self._wire))
        except (trio.WouldBlock, ClientError, ClientGone) as exc:
            return copy(exc)

    def _take(self, buffer: memoryview, receive: Callable[[memoryview], int]) -> int:
        wire = self._wire
        if not self._parsed:
            if wire.body_comes_as_it_is:
                return receive(buffer)
            self._parsed = memoryview(wire.receive_body_nowait())
        count = min(len(buffer), len(self._parsed))
        buffer[:count] = self._parsed[:count]
        self._parsed = self._parsed[count:]
        return count

    def _send_continue(self) -> None:
        parts = self._wire.codec.frame_interim(100, b"Continue", [])
        self._wire.transport.send_nowait(parts)
        if parts:
            try:
                self._thread.wait(self._wire.transport.deliver, parts, self._write_timeout)
            except BaseException:
                self._wire.transport.end_sending()  # a response would come after half of this
                raise


async def wait_body(wire: Wire, timeout: float) -> None:
    """Wait for bytes of the body.

    Raises:
        ClientStalled: none came for `timeout` seconds.
    """
    with trio.move_on_after(timeout) as scope:
        await wire.transport.wait_readable()
    if scope.cancelled_caught and not wire.transport.readable_nowait():
        raise ClientStalled("body_timeout", timeout)


async def gather_body(
    wire: Wire, spool: Spool, timeout: float, buffers: Buffers, threads: trio.CapacityLimiter
) -> IO[bytes]:
    """Receive the whole body into `spool`.

    Args:
        timeout: seconds without a byte (body_timeout).
        buffers: of `WRITE_SIZE`.
        threads: limits those that write to the disk.

    Returns:
        the body as a file to read from its start.

    Raises:
        ClientError, ClientGone: it did not arrive, or is too large.
        NoRoom: the disk does not take it, or no thread can be started that writes.
    """
    blocks: list[Block] = []  # that are not in the spool yet
    size = 0  # of them
    turn = Turn()
    while True:
        await turn.give_way()
        try:
            if wire.body_comes_as_it_is and wire.body_left >= LARGE:
                with buffers.lend() as buffer:
                    filled = buffer[: _fill(wire, buffer)]
                    if len(filled) >= LARGE:
                        await _keep(spool, [*blocks, filled], threads)
                        blocks, size = [], 0
                        continue
                    block = bytes(filled)
            else:
                block = wire.receive_body_nowait()
        except trio.WouldBlock:
            await wait_body(wire, timeout)
            continue
        if not block:
            # One visit to a thread for the last bytes and the reader; none where there is nothing to do.
            at_hand = spool.fits(size) or (spool.settled and not blocks)
            return spool.open_reader(blocks) if at_hand else await _on_disk(spool, threads, spool.open_reader, blocks)
        _append(blocks, block)
        size += len(block)
        if size >= WRITE_SIZE:
            await _keep(spool, blocks, threads)
            blocks, size = [], 0


def _fill(wire: Wire, buffer: memoryview) -> int:
    """Receive what has come, as far as there is room; the bytes received. Raises as `Wire.receive_body_into`."""
    filled = wire.receive_body_into(buffer)
    with suppress(trio.WouldBlock):
        for _ in range(_PIECES):
            if filled == len(buffer) or not wire.body_comes_as_it_is:
                break
            filled += wire.receive_body_into(buffer[filled:])
    return filled


async def _keep(spool: Spool, blocks: Sequence[Block], threads: trio.CapacityLimiter) -> None:
    """Write them; others get their turn."""
    if spool.fits(sum(map(len, blocks))):
        spool.write_blocks(blocks)
        await trio.lowlevel.checkpoint()
    else:
        await _on_disk(spool, threads, spool.write_blocks, blocks)


def _append(blocks: list[Block], block: bytes) -> None:
    """Keep a block as it is; small ones are put together, so that they cost no more than their bytes."""
    if len(block) >= SMALL:
        blocks.append(block)
    elif blocks and isinstance(last := blocks[-1], bytearray):
        last += block
    else:
        blocks.append(bytearray(block))


async def finish_body(wire: Wire, timeout: float, body_timeout: float) -> None:
    """Read and drop what the app has left of the body, for the next request's sake.

    What is left then, or is wrong, ends the connection and nothing else: the response was sent (`Wire.body_done`).

    Args:
        timeout: seconds for all of it.
        body_timeout: seconds without a byte.
    """
    with trio.move_on_after(timeout), suppress(ClientError, ClientGone):
        turn = Turn()
        while not wire.body_done:
            await turn.give_way()
            try:
                wire.receive_body_nowait()
            except trio.WouldBlock:
                await wait_body(wire, body_timeout)


async def free_body(spool: Spool, threads: trio.CapacityLimiter) -> None:
    """Close `spool`; giving back a large file's blocks takes its time, so that is done in a thread."""
    if spool.on_disk:
        with trio.CancelScope(shield=True), suppress(OSError):  # no thread can be started
            await run_in_thread(spool.close, limiter=threads)
    spool.close()


async def _on_disk(spool: Spool, threads: trio.CapacityLimiter, fn: Callable[[*Ts], T], *args: *Ts) -> T:
    try:
        return await run_in_thread(fn, *args, limiter=threads)
    except OSError as exc:
        if exc.errno == errno.EFBIG:  # temp_limit, or the process's own limit of a file's size
            raise ClientError(413, f"the body is too large to be kept: {exc.strerror}") from exc
        if exc.errno == errno.EAGAIN:  # `run_in_thread`
            raise NoRoom(
                f"a request's body cannot be kept: {exc.strerror}; "
                "raise the limit of threads (ulimit -u, TasksMax of systemd, pids of a container)"
            ) from exc
        if exc.errno != errno.ENOSPC and (lack := find_lack(exc)) is not None:  # that one is the disk's here
            raise NoRoom(f"a request's body cannot be kept for what the system lacks: {lack}") from exc
        try:
            where = spool.directory or tempfile.gettempdir()
        except OSError:
            raise NoRoom("no directory for temporary files can be written; name one with temp_path") from exc
        raise NoRoom(
            f"no room in {where} for a request's body: {exc.strerror}; make room, or name another temp_path"
        ) from exc
