"""A page that follows a folder, for browsers on this machine alone."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from qfx.errors import DataError
from qfx.watch.page import watch_page
from qfx.watch.runs import read

HOST = "127.0.0.1"


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Answers GET / with the page of the folder as it is then; ``port`` 0 takes any that is free. Raises DataError for one that is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] != "/" or self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                self.send_error(404)
                return
            content = watch_page(read(folder), str(folder), live=True).encode("utf-8")
            self.send_response(200)
            for name, value in (("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(content))), ("Cache-Control", "no-store")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal says where to look, once."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise DataError(
            f"port {port} cannot be used: {error.strerror or error}", where="--port", remedy="name another; 0 takes any that is free"
        ) from error
