"""Downloads from Django: `FileResponse` as the documentation has it, in a project of one file.

    mkdir downloads && cp SOMETHING downloads/
    trio-wsgi examples.django_downloads.downloads:application

    curl http://127.0.0.1:8000/                        # the names
    curl -C - -O http://127.0.0.1:8000/files/NAME      # resumes what was broken off

Django itself answers no ranges. The server does, for each file that a `FileResponse` holds; and the thread that ran the
view is free before the first byte has left.
"""

from __future__ import annotations

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.exceptions import SuspiciousFileOperation
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.urls import path
from django.utils._os import safe_join

DIRECTORY = Path(os.environ.get("DOWNLOADS", "downloads")).resolve()


def index(request: HttpRequest) -> HttpResponse:
    """The names of what there is."""
    names = sorted(file.name for file in DIRECTORY.iterdir() if file.is_file())
    return HttpResponse("".join(name + "\n" for name in names), content_type="text/plain; charset=utf-8")


def download(request: HttpRequest, name: str) -> FileResponse:
    """One of them."""
    try:
        file = Path(safe_join(DIRECTORY, name)).open("rb")  # noqa: SIM115 - the response closes it
    except (OSError, ValueError, SuspiciousFileOperation):  # not there; a NUL in it; leads out
        raise Http404 from None
    return FileResponse(file, as_attachment=True)


urlpatterns = [path("", index), path("files/<str:name>", download)]

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"], SECRET_KEY="unused")
    django.setup()
application = WSGIHandler()
