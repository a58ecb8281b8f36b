"""OpenVINO's ``benchmark_app`` on the IR of an engine, synchronous, with the engine's own settings.

The tool refuses a number of threads beside a hint; one stream without a hint does the same as the engine's hint. It
times the library's call alone, without what Python adds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Arrays
from kdcmae.bench.run.tools import ToolSubject, find_tool, require_single_ir, sizes
from kdcmae.extras import to_run

__all__ = ["PEER"]


class _BenchmarkAppSubject(ToolSubject):
    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = Path(source), require_single_ir(Path(source))
        self._command = [
            find_tool("benchmark_app", f"install it with: pip install '{to_run('openvino')}'"),
            *("-m", str(folder / manifest.engine["file"]), "-d", str(manifest.engine.get("device", "CPU"))),
            *("-api", "sync", "-nireq", "1", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads)),
            *("-infer_precision", manifest.engine["inference_precision"]),
            *("-data_shape", ",".join(f"{spec.name}[{','.join(sizes(spec))}]" for spec in manifest.inputs)),
            *("-report_type", "no_counters", "-json_stats", "-report_folder"),
        ]
        super().__init__(folder, kind="benchmark_app", boundary="tool")

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """The median of one run in ms, because the tool reports no single calls."""
        with tempfile.TemporaryDirectory() as scratch:
            self.ask([*self._command, scratch, "-t", self.whole_seconds(seconds)])
            report = json.loads((Path(scratch) / "benchmark_report.json").read_text(encoding="utf-8"))
        return [float(report["execution_results"]["latency (ms)"])]


PEER = Peer(
    name="benchmark_app",
    label="benchmark_app {precision}",
    about="OpenVINO's own benchmark tool on an engine's IR",
    open=_BenchmarkAppSubject,
    runs="openvino",
    needs=to_run("openvino"),
    suite=("bf16",),
    suite_all=("fp32", "int8"),
)
