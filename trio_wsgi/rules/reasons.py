"""The reason phrases of what the server answers itself (RFC 9110 §15).

Those of `http.HTTPStatus` are other ones in each version of Python.
"""

from __future__ import annotations

REASONS = {
    200: b"OK",
    301: b"Moved Permanently",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

RETRY_AFTER = (b"Retry-After", b"1")
"""What a 503 says beside its reason: seconds (RFC 9110 §10.2.3)."""
