"""A server that does what it should not: `python lying_server.py PORT KIND`. It answers /hello, so that it is ready."""

from __future__ import annotations

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Liar(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    asked = 0  # by all clients, but for who wants to know whether it is ready

    def do_GET(self) -> None:
        kind = sys.argv[2]
        Liar.asked += self.headers["Connection"] != "close"
        if kind == "hangs" and Liar.asked > 3:
            time.sleep(1000)
        elif self.path == "/hello":
            self.answer(200, b"Hello, world!", 13)
        elif kind == "dies":
            os._exit(7)
        elif kind == "status":
            self.answer(500, b"", 0)
        elif kind == "short":
            self.answer(200, b"x" * 102_399, 102_399)
        elif kind == "cut":
            self.answer(200, b"x" * 1000, 102_400)
            self.close_connection = True
        elif kind == "hangs":
            self.answer(200, bytes(102_400), 102_400)
        else:  # right in number, wrong in content
            self.answer(200, b"x" * 102_400, 102_400)

    def do_POST(self) -> None:
        """Counts a byte less than there were, if it is to lie."""
        count = len(self.rfile.read(int(self.headers["Content-Length"])))
        text = str(count - (sys.argv[2] == "wrong")).encode()
        self.answer(200, text, len(text))

    def answer(self, status: int, body: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Liar).serve_forever()
