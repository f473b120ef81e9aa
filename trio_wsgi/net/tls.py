"""A connected socket under TLS, with the verbs of a plain one.

Laws:

* OpenSSL works on the socket itself, never waits, and is used by one thread at a time: while the loop may be sending,
  an application's thread has the loop receive for it (`duplex`).
* Bytes count as sent when the kernel has the last of their records.
* Nothing is negotiated once hands are shaken: a peer that asks for it is refused, and one that insists has gone. New
  keys are no negotiation: who asks for ours has them as soon as the kernel takes the answer, and is heard only then.
* The end of TCP without a close_notify is a cut, and told as one. Our own end says close_notify, unless the connection
  is aborted or was cut within a record: then the peer is to see that.
* Not a byte leaves unencrypted, but for the answer to a client that spoke plain HTTP (`give_up`).
"""

from __future__ import annotations

import enum
import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import trio

from sendfile import MinRate, Parts, Pump, Rate, TlsSender
from sendfile.tls import PIECE, describe, forget_errors
from trio_wsgi.errors import ClientError, ClientGone, ClientStalled
from trio_wsgi.net.certificates import TlsSocket
from trio_wsgi.net.transport import A, T, Transport
from trio_wsgi.rules.certificates import Session, parse_particulars


class _State(enum.Enum):
    NEW = "shaking hands"
    OPEN = "open"
    ENDING = "the kernel has yet to take our close_notify"
    ENDED = "nothing more is sent"


class TlsTransport(Transport):
    """One end of a TLS connection; `shake_hands` comes first.

    Args:
        sock: connected and non-blocking; it is taken over, and left closed.
        context: the rules, and the certificates to show.
        buffer: files are read into it on their way (`sendfile.TlsSender`): that of the pump's event loop alone.
        pump: moves what the kernel does not take at once.
    """

    duplex = False
    bare = False
    takes_blocks = False  # what is owed has to stay at the head of its queue

    __slots__ = ("_answering", "_state", "_tls")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, buffer: bytearray, pump: Pump) -> None:
        wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False)
        assert isinstance(wrapped, TlsSocket)
        super().__init__(wrapped, pump)
        self._tls = wrapped
        self._sender: TlsSender = TlsSender(wrapped, buffer)
        self._state = _State.NEW
        self._answering = False  # the kernel has not taken our side of a KeyUpdate, and OpenSSL reads nothing before

    def __repr__(self) -> str:
        return f"<TlsTransport {self._state.value}, {self._sender.owed} bytes owed>"

    async def shake_hands(self, timeout: float) -> Session:
        """The handshake.

        Args:
            timeout: seconds for the whole of it.

        Raises:
            ClientGone: it failed, or ran out of time (`ClientStalled`).
            ClientError: the client speaks plain HTTP; `give_up` lets it be told.
        """
        with trio.move_on_after(timeout):
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(self.sock)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(self.sock)
                except OSError as exc:
                    reason = exc.reason if isinstance(exc, ssl.SSLError) else None
                    if reason == "HTTP_REQUEST":
                        raise ClientError(400, "this is plain HTTP, sent to a port for HTTPS; use https://") from None
                    if reason == "CALLBACK_FAILED":  # of Python's before ours, which has nothing that can
                        why = "in the handshake: the server name that it asks for is not ASCII"
                        raise ClientGone(errno.EPROTO, why) from None
                    _raise_gone(exc, "in the handshake")
                else:
                    self._state = _State.OPEN
                    return self._describe()
        raise ClientStalled("handshake_timeout", timeout)

    def _describe(self) -> Session:
        cipher, _, bits = self._tls.cipher() or ("", "", 0)
        der = self._tls.getpeercert(binary_form=True)
        return Session(
            protocol=self._tls.version() or "",
            cipher=cipher,
            key_bits=bits,
            asked_name=self._tls.asked_name,
            certificate=self._read_certificate(der) if der else None,
            pem=ssl.DER_cert_to_PEM_cert(der) if der else "",
        )

    def _read_certificate(self, der: bytes) -> Mapping[str, Any] | None:
        try:
            return self._tls.getpeercert() or None  # an empty one is that of a client whom nobody has verified
        except (ssl.SSLError, ValueError):  # it is verified, and yet Python cannot read a name or an extension
            forget_errors()
        try:
            return parse_particulars(der)
        except ValueError:
            return {}

    def give_up(self) -> Transport:
        """The same connection without TLS, before its handshake; this one is closed then."""
        sock = socket.socket(fileno=self.sock.detach())
        sock.setblocking(False)
        return Transport(sock, self._pump)

    def receive_nowait(self, size: int) -> bytes:
        """As `Transport`; b"" is the peer's close_notify. After `end_sending` it is only told that bytes came."""
        if self._state in {_State.ENDING, _State.ENDED}:
            return self._receive(partial(socket.socket.recv, self.sock), size)  # encrypted: nobody will read it
        return super().receive_nowait(size)

    def _receive(self, receive: Callable[[A], T], what: A) -> T:
        try:
            return receive(what)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise trio.WouldBlock from None
        except ssl.SSLWantWriteError:
            self._answering = True
            raise trio.WouldBlock from None
        except OSError as exc:
            _raise_gone(exc, "while receiving")

    def send_nowait(self, parts: Parts, limit: int | None = None) -> int:
        """As `Transport`."""
        self._check_open()
        sent = 0
        try:
            while parts and (limit is None or sent < limit):
                sent += self._sender.step(parts, PIECE)
        except trio.WouldBlock:
            pass
        except OSError as exc:
            _raise_gone(exc, "while sending")
        return sent

    def push_nowait(self, parts: Parts) -> int:
        """As `Transport`, which needs not send anything: the pump encrypts what is in files."""
        return 0

    def readable_nowait(self) -> bool:
        """As `Transport`."""
        return not self._answering and super().readable_nowait()

    async def wait_readable(self) -> None:
        """As `Transport`; where something of TLS's own is still to be sent, that is seen to first."""
        if self._state is _State.ENDING:
            await trio.lowlevel.wait_writable(self.sock)
            self.end_sending()
        elif self._state is _State.OPEN and self._answering:
            await trio.lowlevel.wait_writable(self.sock)
            self._answering = False
        elif self._state is _State.OPEN and self._tls.pending():
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self.sock)

    async def deliver(
        self,
        parts: Parts,
        idle_timeout: float,
        progress: Callable[[int], None] | None = None,
        rate: Rate | None = None,
        min_rate: MinRate | None = None,
    ) -> None:
        """As `Transport`."""
        self._check_open()
        try:
            await super().deliver(parts, idle_timeout, progress, rate, min_rate)
        except BaseException:
            if self._sender.owed:  # half a record is out, and nothing but its other half could follow
                self._state = _State.ENDED
            raise

    def held(self) -> int:
        """As `Transport`; less than 0 where the peer has bytes already that do not count as sent yet."""
        return self._sender.sent - self._sender.taken()

    def end_sending(self) -> None:
        """As `Transport`; what was received and not read, or comes later, is not decrypted any more."""
        if self._state in {_State.OPEN, _State.ENDING}:
            self._state = _State.ENDED if self._sender.owed or self._say_goodbye() else _State.ENDING
        if self._state is not _State.ENDING:
            super().end_sending()

    def abort(self) -> None:
        """As `Transport`: a reset, and no close_notify."""
        self._state = _State.ENDED
        super().abort()

    def close(self) -> None:
        """As `Transport`; with a close_notify, as far as the kernel takes it now."""
        if self._state is _State.OPEN and not self._sender.owed:
            self._say_goodbye()
        self._state = _State.ENDED
        super().close()

    def _check_open(self) -> None:
        if self._state is not _State.OPEN:
            raise ClientGone(errno.EPIPE, f"while sending: {self._state.value}")

    def _say_goodbye(self) -> bool:
        """Send a close_notify, not waiting for the peer's; False where the kernel does not take it now."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantWriteError:
            return False
        except (OSError, ValueError):  # the peer's has not come, or what came instead does not matter any more
            forget_errors()
        return True


def _raise_gone(exc: OSError, when: str) -> NoReturn:
    forget_errors()
    if isinstance(exc, ssl.SSLError):
        raise ClientGone(errno.ECONNRESET, f"{when}: {describe(exc)}") from exc
    raise ClientGone(exc.errno, f"{when}: {exc.strerror}") from exc
