"""Several graphs of the same weights on one weights file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree

__all__ = ["SHARE"]

_ALIGNMENT = 64
_SMALLEST = 1024  # bytes; smaller constants stay in the graph where the format has room for them
_WEIGHTS = "weights.bin"


def _share_ir(graphs: Sequence[Path]) -> str:
    """OpenVINO: every constant of an ``.xml`` names its place in the weights."""
    with _Pool(graphs[0].with_name(_WEIGHTS)) as pool:
        for path in graphs:
            own = path.with_suffix(".bin")
            tree = ElementTree.parse(path)
            with own.open("rb") as stream:
                for data in tree.iterfind("layers/layer[@type='Const']/data"):
                    stream.seek(int(data.attrib["offset"]))
                    data.attrib["offset"] = str(pool.place(stream.read(int(data.attrib["size"]))))
            own.unlink()
            tree.write(path, encoding="utf-8", xml_declaration=True)
    return _WEIGHTS


def _share_onnx(graphs: Sequence[Path]) -> str:
    """ONNX: external data."""
    import onnx
    from onnx.external_data_helper import set_external_data

    with _Pool(graphs[0].with_name(_WEIGHTS)) as pool:
        for path in graphs:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                if tensor.HasField("raw_data") and len(tensor.raw_data) >= _SMALLEST:
                    content = tensor.raw_data
                    set_external_data(tensor, _WEIGHTS, offset=pool.place(content), length=len(content))
                    tensor.ClearField("raw_data")
            onnx.save(model, path)
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return _WEIGHTS


SHARE: Mapping[str, Callable[[Sequence[Path]], str]] = {"openvino": _share_ir, "onnx": _share_onnx}
"""By target: put the weights of graphs, each in a folder of its own, into one file beside the first; give its name."""


class _Pool:
    """A file of byte strings, each there once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> _Pool:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def place(self, content: bytes) -> int:
        """Where the content is, in bytes from the start."""
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
            self._places[key] = self._file.tell()
            self._file.write(content)
        return self._places[key]
