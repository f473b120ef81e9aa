"""What all connections of one server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sendfile import Pump
from trio_wsgi.config import Config
from trio_wsgi.disk.mount import Mount
from trio_wsgi.net.apps import AppThreads
from trio_wsgi.net.mounts import Directories, file_options
from trio_wsgi.record import RequestRecord
from trio_wsgi.rules.head import HeadLimits
from trio_wsgi.wsgi.call import WSGIApplication
from trio_wsgi.wsgi.policies import Buffering
from trio_wsgi.wsgi.response import AnswerOptions

Observer = Callable[[RequestRecord], None]


@dataclass(frozen=True, slots=True)
class Service:
    """The application, the threads it runs in, the pump that sends for it, and the settings.

    Args:
        observers: are told of every finished request, on the event loop; must be quick.
    """

    app: WSGIApplication
    config: Config
    threads: AppThreads
    pump: Pump
    observers: tuple[Observer, ...]
    head_limits: HeadLimits
    buffering: Buffering
    answers: AnswerOptions
    mounts: tuple[Mount, ...]
    disk: AppThreads  # for what mounts do, which no app may keep waiting


def build_service(
    app: WSGIApplication,
    config: Config,
    observers: tuple[Observer, ...],
    threads: AppThreads,
    disk: AppThreads,
    pump: Pump,
    directories: Directories,
) -> Service:
    """A service from its settings."""
    return Service(
        app=app,
        config=config,
        threads=threads,
        pump=pump,
        observers=observers,
        head_limits=HeadLimits(config.limit_request_line, config.limit_request_fields, config.limit_request_field_size),
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
        mounts=directories.mounts,
        disk=disk,
    )
