"""What all connections of one server share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from sendfile import MinRate, Pump
from sendfile.senders import count_senders
from sendfile.tls import PIECE
from trio_wsgi.config import Config
from trio_wsgi.disk.mount import Mount
from trio_wsgi.net.alarms import Alarms
from trio_wsgi.net.buffers import Buffers
from trio_wsgi.net.certificates import Tls
from trio_wsgi.net.codec import MakeCodec
from trio_wsgi.net.disks import Disks, open_disks
from trio_wsgi.net.fastcodec import choose_codec
from trio_wsgi.net.inlet import WRITE_SIZE
from trio_wsgi.net.inthread import run_in_thread
from trio_wsgi.net.lanes import Lanes, open_lanes
from trio_wsgi.net.mounts import file_options, open_directories
from trio_wsgi.net.observe import Observers
from trio_wsgi.net.pool import ThreadPool, open_pool
from trio_wsgi.net.running import running
from trio_wsgi.net.unbelieved import Unbelieved
from trio_wsgi.net.watch import DisconnectWatch
from trio_wsgi.net.work import Work
from trio_wsgi.rules.forwarded import Forwarding, parse_names
from trio_wsgi.rules.head import HeadLimits
from trio_wsgi.rules.proxies import Proxies, parse_proxies
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.policies import Buffering
from trio_wsgi.wsgi.response import AnswerOptions

_UPLOAD_THREADS = 8


@dataclass(frozen=True, slots=True)
class Service:
    """The application, the threads it runs in, the pump that sends for it, and the settings."""

    app: WSGIApplication
    config: Config
    now: Callable[[], float]  # Trio's clock
    threads: ThreadPool
    lanes: Lanes | None  # where the system has epoll
    pump: Pump
    buffers: Buffers  # for uploads
    upload_threads: trio.CapacityLimiter  # that put them on disk: not those that the whole program shares
    watch: DisconnectWatch
    alarms: Alarms
    work: Work  # that apps start for as long as the server runs
    observers: Observers
    make_codec: MakeCodec
    head_limits: HeadLimits
    min_rate: MinRate | None  # that clients have to take
    buffering: Buffering
    answers: AnswerOptions
    forwarding: Forwarding
    unbelieved: Unbelieved | None  # None with the PROXY protocol: a client that it names is to be no proxy of ours
    proxy_protocol: Proxies | None  # who begins its connections with a PROXY header; None: nobody does
    health_path: bytes  # b"" for none
    mounts: tuple[Mount, ...]
    disks: Disks
    tls: Tls | None
    tls_buffer: bytearray  # that files pass through, on this event loop and no other; empty without TLS


@asynccontextmanager
async def open_service(
    app: WSGIApplication, config: Config, observers: Observers, tls: Tls | None, processes: int
) -> AsyncIterator[Service]:
    """Open all that connections share; they must have ended when the block is left.

    Args:
        processes: how many share the processors.

    Raises:
        ConfigError: a directory that is to be served is not there, or what is to read HTTP.
    """
    half_close = config.half_close == "abort"
    pump = Pump(half_close=half_close, senders=count_senders(processes))
    alarms = Alarms()
    limits = HeadLimits(config.limit_request_line, config.limit_request_fields, config.limit_request_field_size)
    watch = DisconnectWatch(half_close, config.write_timeout)
    make_codec = choose_codec(config.http, limits.total)
    with ExitStack() as stack:  # a directory may be on a disk that hangs
        directories = await run_in_thread(stack.enter_context, open_directories(config))
        async with (
            running(pump.run),
            running(watch.run),
            running(alarms.run),
            open_pool(config.threads, config.queue_size) as threads,
            open_lanes(threads) as lanes,
            open_disks(config.connection_limit) as disks,
            trio.open_nursery() as background,
        ):
            yield Service(
                work=Work(background, "the server", trio.lowlevel.current_trio_token()),
                app=app,
                tls=tls,
                tls_buffer=bytearray(0 if tls is None else PIECE),
                config=config,
                now=alarms.now,
                threads=threads,
                lanes=lanes,
                disks=disks,
                pump=pump,
                buffers=Buffers(WRITE_SIZE),
                upload_threads=trio.CapacityLimiter(_UPLOAD_THREADS),
                watch=watch,
                alarms=alarms,
                observers=observers,
                make_codec=make_codec,
                head_limits=limits,
                min_rate=MinRate(config.min_send_rate, config.min_send_grace) if config.min_send_rate else None,
                buffering=Buffering(
                    write_policy=config.write_policy,
                    write_buffer_size=config.write_buffer_size,
                    temp_path=config.temp_path,
                    temp_limit=config.temp_limit,
                    output_buffering=config.output_buffering,
                ),
                answers=AnswerOptions(
                    files=file_options(config),
                    optimize_send_headers=config.optimize_send_headers,
                    accel=directories.accel,
                ),
                forwarding=Forwarding(
                    parse_proxies(config.forwarded_allow_ips), parse_names(config.trusted_proxy_headers)
                ),
                unbelieved=None if config.proxy_protocol else Unbelieved(config.forwarded_allow_ips),
                proxy_protocol=parse_proxies(config.proxy_allow_from) if config.proxy_protocol else None,
                health_path=config.health_path.encode("ascii"),
                mounts=directories.mounts,
            )
            background.cancel_scope.cancel()
