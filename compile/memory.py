"""Give freed memory back to the system between the stages of a build."""

from __future__ import annotations

import ctypes
import gc
import sys

__all__ = ["trim"]


def trim() -> None:
    """Collect garbage, and make glibc return what is free inside its heap; it keeps it otherwise.

    A build goes through several libraries that each hold the weights once, so what one has freed the next must get.
    """
    tracer = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if tracer is not None:
        # It remembers the last graph that it traced, to explain errors, and a graph has its module with the weights.
        getattr(tracer, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", {}).clear()
    gc.collect()
    if sys.platform == "linux":
        trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim_heap is not None:
            trim_heap(0)
