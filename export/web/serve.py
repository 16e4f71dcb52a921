"""Serve a built site on this machine, with the headers that its threads and workers need.

    python export/web/serve.py --folder=dist/web --port=8080

Configure other servers to send the same headers: Cross-Origin-Opener-Policy and
Cross-Origin-Embedder-Policy, without which LiteRT.js uses a single thread, and the page's
Content-Security-Policy, which workers only read from a header.
"""

import re
import sys
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """The flags."""

    folder: str = "dist/web"
    """Folder that build.py wrote."""
    port: int = 8080
    """Port of the server; 0 selects a free one."""


def make_server(folder: str, port: int) -> ThreadingHTTPServer:
    """Creates a server for the site on 127.0.0.1, without starting it."""
    try:
        page = (Path(folder) / "index.html").read_text(encoding="utf-8")
        [policy] = re.findall(r'"Content-Security-Policy" content="(.*?)"', page)
    except (OSError, ValueError):
        raise ValueError(f"{folder} contains no site: run export/web/build.py first.") from None
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # the browser checks for a newer build
    }

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {
            ".js": "text/javascript",
            ".json": "application/json",
            ".svg": "image/svg+xml",
            ".wasm": "application/wasm",
            ".tflite": "application/octet-stream",
        }

        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *message):
            pass

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=folder))
    except OSError as error:
        raise ValueError(
            f"port {port} is not available ({error.strerror}): use another --port."
        ) from None


def main(options: Options) -> None:
    """Serves until Ctrl-C."""
    server = make_server(options.folder, options.port)
    print(f"http://127.0.0.1:{server.server_port} (press Ctrl-C to stop)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__, use_underscores=True))
    except ValueError as error:
        sys.exit(f"error: {error}")
