"""The answer to those who ask whether we are well (`health_path`): load balancers, orchestrators, people.

Laws:

* It needs no thread and asks no app: it tells whether the server takes requests, at once and also when all is busy.
* 503 from the moment of the drain. New connections are refused then; this is for those that are open.
"""

from __future__ import annotations

from trio_wsgi.disk.answer import Answer, say
from trio_wsgi.rules.head import RequestHead

_UNCACHED = (b"Cache-Control", b"no-store")


def answer_health(request: RequestHead, draining: bool) -> Answer:
    """200 while we serve, 503 while we drain, 405 for what is neither GET nor HEAD."""
    if request.method not in (b"GET", b"HEAD"):
        return say(request, 405, [(b"Allow", b"GET, HEAD")])
    status, text = (503, b"draining\n") if draining else (200, b"ready\n")
    return say(request, status, [_UNCACHED], text)
