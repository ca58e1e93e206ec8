"""A registry that answers every pull with the HTTP status that the repository's first part names: `HOST/503/server`.

Run by record.py in the node's network namespace: `python odd_registry.py PORT`.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CODES = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS", 503: "UNAVAILABLE"}


class Refusal(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = int(self.path.split("/")[2])
        errors = {"errors": [{"code": CODES[status], "message": CODES[status].lower()}]}
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        body = json.dumps(errors).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Refusal).serve_forever()
