"""A static server on loopback, for a page that is looked at on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["served"]

_LOOPBACK = "127.0.0.1"


class _Files(SimpleHTTPRequestHandler):
    """Serves files without a line of log for each."""

    # Browsers run modules and compile WebAssembly only of these types, which a system's own table may lack.
    extensions_map = {  # noqa: RUF012 - as the base class has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: Any) -> None:
        """Browsers close connections as they like."""


@contextmanager
def served(folder: Path, port: int) -> Iterator[_Server]:
    """A server of a folder for this machine alone; ``serve_forever()`` runs it.

    Args:
        folder: of the files.
        port: to listen on; another one where it is taken.
    """
    handler = partial(_Files, directory=str(folder))
    try:
        server = _Server((_LOOPBACK, port), handler)
    except OSError:
        server = _Server((_LOOPBACK, 0), handler)
    with server:
        yield server
