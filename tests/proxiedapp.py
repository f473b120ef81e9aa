"""What a server behind a real proxy serves in tests: what it was told of its client, a file, the digest of a body."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any
from wsgiref.util import request_uri


def app(environ: dict[str, Any], start_response: Any) -> Any:
    """`/file` is $PROXIED_FILE, POST answers with the body's SHA-256, everything else with the environ."""
    if environ["PATH_INFO"] == "/file":
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("X-Node", os.environ.get("NODE", ""))])
        return environ["wsgi.file_wrapper"](open(os.environ["PROXIED_FILE"], "rb"))  # noqa: PTH123
    start_response("200 OK", [("Content-Type", "application/json")])
    if environ["REQUEST_METHOD"] == "POST":
        digest = hashlib.sha256(environ["wsgi.input"].read()).hexdigest()
        return [json.dumps({"sha256": digest}).encode()]
    told = {key: value for key, value in environ.items() if isinstance(value, str)}
    return [json.dumps({**told, "url": request_uri(environ), "node": os.environ.get("NODE", "")}).encode()]
