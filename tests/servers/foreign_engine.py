"""A loopback port that answers a download as no object store should: with a status, and headers, of its own."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

BODY = b"<Error>of the engine</Error>"


class ForeignEngine:
    """A GET of a path that ends with ``/<number>`` is answered with that status, ``headers`` and ``BODY``. As a context
    it runs."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        class Handler(_Handler):
            told = headers

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    told: list[tuple[str, str]]

    def do_GET(self) -> None:
        status = int(urlsplit(self.path).path.rpartition("/")[2])
        self.send_response(status)
        for name, value in self.told:
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if status != 304:
            self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Nothing."""
