"""``trtexec`` on the plan of a TensorRT engine, transfers included."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Arrays
from kdcmae.bench.run.tools import ToolSubject, find_tool, sizes
from kdcmae.runtime.manifest import Manifest

__all__ = ["PEER"]


class _TrtexecSubject(ToolSubject):
    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = Path(source), Manifest.read(source)
        name = "tensorrt_rtx" if manifest.engine.get("flavour") == "tensorrt_rtx" else "trtexec"
        self._command = [
            find_tool(name, "TensorRT's own archive has it in bin/"),
            f"--loadEngine={folder / manifest.engine['file']}",
            "--shapes=" + ",".join(f"{spec.name}:{'x'.join(sizes(spec))}" for spec in manifest.inputs),
            "--warmUp=0",
        ]
        super().__init__(folder, kind=name, boundary="tool")

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """Latencies in ms of every call of one run."""
        with tempfile.TemporaryDirectory() as scratch:
            times = Path(scratch) / "times.json"
            self.ask([*self._command, f"--duration={self.whole_seconds(seconds)}", f"--exportTimes={times}"])
            return [float(call["latencyMs"]) for call in json.loads(times.read_text(encoding="utf-8"))]


PEER = Peer(
    name="trtexec",
    label="trtexec {precision}",
    about="TensorRT's own benchmark tool on an engine's plan",
    open=_TrtexecSubject,
    runs="trt",
    needs="trtexec or tensorrt_rtx",
    suite=("fp16",),
)
