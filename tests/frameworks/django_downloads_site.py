"""A Django site in one module, for the real command; the environment's FILE names the file that it sends."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.files import File
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.static import serve

FILE = Path(os.environ["FILE"])
finished: list[str] = []  # threads that request_finished was sent in
open_files: list[Any] = []

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.http.ConditionalGetMiddleware", "django.middleware.common.CommonMiddleware"],
)


def opened() -> Any:
    open_files.append(FILE.open("rb"))
    return open_files[-1]


def whole(request: HttpRequest) -> FileResponse:
    return FileResponse(opened())


def after_seek(request: HttpRequest, position: int) -> FileResponse:
    file = opened()
    file.seek(position)
    return FileResponse(file, as_attachment=True, filename="tail.bin")


def after_read(request: HttpRequest) -> FileResponse:
    file = opened()
    file.read(10)
    return FileResponse(file)


def with_length(request: HttpRequest, position: int, length: int) -> FileResponse:
    file = opened()
    file.seek(position)
    response = FileResponse(file)
    response["Content-Length"] = str(length)
    return response


def wrapped_file(request: HttpRequest) -> FileResponse:
    return FileResponse(File(opened()))


def from_memory(request: HttpRequest) -> FileResponse:
    return FileResponse(io.BytesIO(FILE.read_bytes()))


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    def blocks() -> Iterator[bytes]:
        with opened() as file:
            while block := file.read(10_000):
                yield block

    return StreamingHttpResponse(blocks())


def state(request: HttpRequest) -> HttpResponse:
    still_open = sum(not file.closed for file in open_files)
    return HttpResponse(f"{len(open_files)} opened, {still_open} open, finished in {sorted(set(finished))}")


def note_finished(**_: Any) -> None:
    finished.append(threading.current_thread().name)


request_finished.connect(note_finished)
urlpatterns = [
    path("whole", whole),
    path("seek/<int:position>", after_seek),
    path("read", after_read),
    path("length/<int:position>/<int:length>", with_length),
    path("wrapped", wrapped_file),
    path("memory", from_memory),
    path("streamed", streamed),
    path("static/<path:path>", serve, {"document_root": FILE.parent}),
    path("state", state),
]
django.setup()
app = get_wsgi_application()
