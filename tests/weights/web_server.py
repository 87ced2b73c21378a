"""A server on the loopback address, as good or bad as a test wants it."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer(ThreadingHTTPServer):
    """Serves files from memory.

    Attributes:
        files: Content by path.
        status: HTTP status of every answer.
        headers: More headers of every answer; a None leaves out one that would be there.
        sent: Share of a file that is sent before the connection is closed.
        pause: Seconds between the pieces of a file.
        pieces: Number of these.
        requests: Paths that were asked for.
    """

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.files, self.headers, self.requests = {}, {}, []
        self.status, self.sent, self.pause, self.pieces = 200, 1.0, 0.0, 1
        self.ending = threading.Event()

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        content = server.files.get(self.path)
        if content is None or server.status != 200:
            self.send_error(404 if content is None else server.status)
            return
        self.send_response(200)
        for key, value in {'Content-Length': str(len(content)), **server.headers}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        size = len(content) // server.pieces + 1
        content = content[: int(len(content) * server.sent)]
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(content), size):
                self.wfile.write(content[start : start + size])
                self.wfile.flush()
                server.ending.wait(server.pause)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve() -> Iterator[WebServer]:
    with WebServer() as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
