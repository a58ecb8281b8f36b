"""OpenVINO's ``benchmark_app`` on the IR of an engine.

It times the library's call alone, without what Python adds. As a peer it is synchronous, with the engine's own
settings: the tool refuses a number of threads beside a hint, and one stream without a hint does the same as the
engine's hint.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Arrays
from kdcmae.bench.run.tools import ToolSubject, find_tool, require_single_ir, sizes
from kdcmae.errors import ConfigError
from kdcmae.extras import to_run

__all__ = ["PEER", "BenchmarkApp"]


class BenchmarkApp:
    """The tool on an engine, at batch 1.

    Args:
        folder: the engine.
        options: of the tool.

    Raises:
        ConfigError: the engine is not for OpenVINO, or not a single IR that takes batch 1.
        DeviceError: the tool is not installed.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        manifest = require_single_ir(folder)
        if manifest.target != PEER.runs or manifest.batch.min != 1:
            raise ConfigError(f"benchmark_app runs engines for OpenVINO that take batch 1, which {folder} is not")
        self._command = [
            find_tool("benchmark_app", f"install it with: pip install '{to_run('openvino')}'"),
            *("-m", str(folder / manifest.engine["file"]), "-d", str(manifest.engine.get("device", "CPU"))),
            *options,
            *("-infer_precision", manifest.engine["inference_precision"]),
            *("-data_shape", ",".join(f"{spec.name}[{','.join(sizes(spec))}]" for spec in manifest.inputs)),
            *("-report_type", "no_counters", "-json_stats", "-report_folder"),
        ]

    def run(self, seconds: float) -> dict[str, str]:
        """The results of one run, by the tool's names for them.

        Raises:
            EngineError: it failed.
        """
        with tempfile.TemporaryDirectory() as scratch:
            ToolSubject.ask([*self._command, scratch, "-t", ToolSubject.whole_seconds(seconds)])
            report = json.loads((Path(scratch) / "benchmark_report.json").read_text(encoding="utf-8"))
        results: dict[str, str] = report["execution_results"]
        return results


class _BenchmarkAppSubject(ToolSubject):
    def __init__(self, source: str, threads: int) -> None:
        settings = ("-api", "sync", "-nireq", "1", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads))
        self._tool = BenchmarkApp(Path(source), *settings)
        super().__init__(Path(source), kind="benchmark_app", boundary="tool")

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """The median of one run in ms, because the tool reports no single calls."""
        return [float(self._tool.run(seconds)["latency (ms)"])]


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
