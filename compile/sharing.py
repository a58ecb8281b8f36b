"""Several graphs of the same weights on one weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from kdcmae.compile.weights import WeightsFile, data_file, detached

__all__ = ["SHARE"]

_WEIGHTS = "weights.bin"


def _share_ir(graphs: Sequence[Path]) -> str:
    """OpenVINO: every constant of an ``.xml`` names its place in the weights."""
    with WeightsFile(graphs[0].with_name(_WEIGHTS)) as file:
        for path in graphs:
            own = path.with_suffix(".bin")
            tree = ElementTree.parse(path)
            with own.open("rb") as stream:
                for data in tree.iterfind("layers/layer[@type='Const']/data"):
                    stream.seek(int(data.attrib["offset"]))
                    data.attrib["offset"] = str(file.place(stream.read(int(data.attrib["size"]))))
            own.unlink()
            tree.write(path, encoding="utf-8", xml_declaration=True)
    return _WEIGHTS


def _share_onnx(graphs: Sequence[Path]) -> str:
    """ONNX: external data."""
    import onnx

    with WeightsFile(graphs[0].with_name(_WEIGHTS)) as file:
        for path in graphs:
            model = onnx.load(path, load_external_data=False)
            for tensor in model.graph.initializer:
                moved = detached(tensor, path.parent)
                file.move(moved)
                tensor.CopyFrom(moved)
            onnx.save(model, path)
            data_file(path).unlink(missing_ok=True)
    return _WEIGHTS


SHARE: Mapping[str, Callable[[Sequence[Path]], str]] = {"openvino": _share_ir, "onnx": _share_onnx}
"""By target: put the weights of graphs, each in a folder of its own, into one file beside the first; give its name."""
