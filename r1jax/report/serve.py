"""Shows a page to this machine, written anew while its runs go on."""

import contextlib
import http.server
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_REFRESH_SECONDS = 20  # at the least between two writes


class Server(http.server.ThreadingHTTPServer):
    """Serves one page and its folder of completions, and nothing else, on 127.0.0.1."""

    def __init__(self, page: Path, write: Callable[[], Path], *, port: int, refresh_seconds: float = _REFRESH_SECONDS):
        self.page, self._write, self._refresh_seconds = page, write, refresh_seconds
        self._written, self._lock = time.monotonic(), threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/{self.page.name}"

    def file(self, path: str) -> Path | None:
        """The file of a request, the page written anew if it is old; None for what is not of the page."""
        name = path.partition("?")[0].lstrip("/")
        folder = self.page.with_name(f"{self.page.stem}_data")
        if name in ("", self.page.name):
            self._refresh()
            return self.page
        scripts = {f"{folder.name}/{script.name}": script for script in folder.glob("*.js")}
        return scripts.get(name)

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._written >= self._refresh_seconds:
                try:
                    self._write()
                except (ValueError, OSError) as error:  # what was there stays
                    print(f"error: {error}", file=sys.stderr)
                self._written = time.monotonic()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        is_local = self.headers.get("Host", "").partition(":")[0] in ("127.0.0.1", "localhost")
        file = self.server.file(self.path) if is_local else None
        if file is None or not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if file.suffix == ".js" else "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(page: Path, write: Callable[[], Path], *, port: int) -> None:
    """Serves `page`, which `write` writes anew, until Ctrl-C. OSError or OverflowError where the port is taken or none."""
    with Server(page, write, port=port) as server:
        print(f"{server.url} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
