"""Look into an engine folder without running it: no device is needed, and no library deserialises anything."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kdcmae.errors import EngineError, MissingDependencyError
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.manifest import Manifest

__all__ = ["inspect_engine"]

# The first bytes of raw plans.
_PLANS = {b"ftrt": "TensorRT", b"vtrt": "TensorRT for RTX"}
_RELEASE = slice(24, 28)  # where TensorRT for RTX 1.7 has its release, a byte per number


def inspect_engine(folder: Path) -> dict[str, Any]:
    """What an engine is, from its manifest and the bytes of its file.

    Args:
        folder: the engine folder.

    Returns:
        ``manifest`` (as stored), ``sizes`` (bytes per file) and ``graph``: the format, and operations by type and
        precision where the format can be read; ``frontend`` likewise where that is a file of its own.

    Raises:
        EngineError: no engine folder, or an engine file of another format than its manifest says.
    """
    manifest = Manifest.read(folder)
    return {
        "engine": str(folder),
        "target": manifest.target,
        "model": manifest.model,
        "labels": len(manifest.labels),
        "inputs": [vars(spec) for spec in manifest.inputs],
        "outputs": [vars(spec) for spec in manifest.outputs],
        "batch": vars(manifest.batch),
        "precision": manifest.precision,
        "libraries": manifest.libraries,
        "options": manifest.engine,
        "created": manifest.created,
        "kdcmae": manifest.kdcmae_version,
        "parity": [{"name": rung["name"], "status": rung["status"]} for rung in manifest.parity],
        "sizes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        **{
            name: _graph(folder / manifest.engine[role], manifest.target)
            for name, role in (("graph", "file"), ("frontend", "frontend"))
            if role in manifest.engine
        },
    }


def _graph(path: Path, target: str) -> dict[str, Any]:
    if not path.is_file():
        raise EngineError(f"{path} is missing; copy the engine folder again or rebuild it with kdcmae-compile")
    if target == "openvino":
        return _intermediate_representation(path)
    if target == "onnx":
        try:
            return {"format": "ONNX", "operations": _operations(path)}
        except MissingDependencyError:
            return {"format": "ONNX; install onnx to see its operations", "operations": {}}
    if target == "trt":
        return _plan(path)
    return {"format": f"{path.suffix.lstrip('.')} package", "operations": {}}


def _operations(path: Path) -> dict[str, dict[str, int]]:
    """Nodes by type and precision of their first output, as far as the graph declares it."""
    onnx = import_library("onnx", install="kdcmae[onnx]")
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise EngineError(f"{path} is not an ONNX file: {error}; rebuild it with kdcmae-compile") from error
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}
    operations: dict[str, Counter[str]] = {}
    for node in graph.node:
        precision = names.get(types.get(node.output[0], 0), "") if node.output else ""
        operations.setdefault(node.op_type, Counter())[precision if precision != "undefined" else ""] += 1
    return {kind: dict(found) for kind, found in sorted(operations.items())}


def _intermediate_representation(path: Path) -> dict[str, Any]:
    """Layers by type and precision of their first output."""
    operations: dict[str, Counter[str]] = {}
    version = ""
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if event == "start" and element.tag == "net":
                version = element.get("version", "")
            elif event == "end" and element.tag == "layer":
                port = element.find("output/port")
                precision = "" if port is None else port.get("precision", "").lower()
                operations.setdefault(element.get("type", ""), Counter())[precision] += 1
                element.clear()
    except ElementTree.ParseError as error:
        raise EngineError(f"{path} is not an OpenVINO IR: {error}; rebuild it with kdcmae-compile") from error
    if not version:
        raise EngineError(f"{path} is not an OpenVINO IR: it has no net; rebuild it with kdcmae-compile")
    counts = {kind: dict(found) for kind, found in sorted(operations.items())}
    return {"format": f"OpenVINO IR {version}", "operations": counts}


def _plan(path: Path) -> dict[str, Any]:
    """What a raw plan says of itself in its first bytes; only its library reads the rest."""
    with path.open("rb") as file:
        head = file.read(_RELEASE.stop)
    if head[:4] not in _PLANS:
        raise EngineError(f"{path} is not a TensorRT plan: it starts with {head[:4]!r}; rebuild it with kdcmae-compile")
    flavour = _PLANS[head[:4]]
    release = f" {'.'.join(map(str, head[_RELEASE]))}" if flavour == "TensorRT for RTX" else ""
    return {"format": f"{flavour}{release} plan", "operations": {}}
