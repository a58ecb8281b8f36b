"""Pages on a port of this machine, for as long as a test looks at them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcmae.export.serving import served

__all__ = ["running"]


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The address of a folder while it is served."""
    with served(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
