"""The answer to those who ask whether we are well (`health_path`): load balancers, orchestrators, people.

Laws:

* It needs no thread and asks no app: it tells whether the server takes requests, at once and also when all is busy.
* 503 from the moment of the drain. New connections are refused then; this is for those that are open.
"""

from __future__ import annotations

from trio_wsgi.disk.answer import Answer, say
from trio_wsgi.rules.head import RequestHead
from trio_wsgi.rules.headers import Head

_UNCACHED = (b"Cache-Control", b"no-store")


def answer_health(request: RequestHead, draining: bool) -> Answer:
    """200 while we serve, 503 while we drain, 405 for what is neither GET nor HEAD."""
    if request.method not in (b"GET", b"HEAD"):
        return say(request, 405, b"Method Not Allowed", [(b"Allow", b"GET, HEAD")])
    status, reason, body = (503, b"Service Unavailable", b"draining\n") if draining else (200, b"OK", b"ready\n")
    headers = [(b"Content-Type", b"text/plain"), _UNCACHED, (b"Content-Length", b"%d" % len(body))]
    return Answer(Head(status, reason, headers), [body] if request.method == b"GET" else [])
