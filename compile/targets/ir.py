"""What has to be said in an OpenVINO IR itself, since no function of the library says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from kdcmae.compile.weights import SHARED_WEIGHTS, WeightsFile

__all__ = ["keep_frontend_float32", "share_weights"]

_HALF = ("FP16", "BF16")


def keep_frontend_float32(path: Path) -> None:
    """Mark the float32 layers before the first conversion to a lower precision, so that plugins leave them alone.

    A plugin with a precision hint takes the types of an IR for a suggestion; layers marked as precise keep theirs.
    Nothing is marked in a graph of one precision.

    Args:
        path: of the ``.xml``, changed in place.
    """
    tree = ElementTree.parse(path)
    layers = {layer.attrib["id"]: layer for layer in tree.iterfind("layers/layer")}
    readers: dict[str, list[str]] = {}
    sources: dict[str, list[str]] = {}
    for edge in tree.iterfind("edges/edge"):
        source, reader = edge.attrib["from-layer"], edge.attrib["to-layer"]
        readers.setdefault(source, []).append(reader)
        sources.setdefault(reader, []).append(source)
    inputs = _descendants([name for name, layer in layers.items() if layer.attrib["type"] == "Parameter"], readers)
    conversions = [name for name in inputs if _lowers_precision(layers[name])]
    if conversions:
        frontend = inputs - _descendants(conversions, readers)
        # With their constants: a filter that was rounded is as wrong as a product that was.
        for name in _descendants(frontend, sources):
            if "FP32" in _precisions(layers[name]):
                _mark(layers[name])
        tree.write(path, encoding="utf-8", xml_declaration=True)


def share_weights(graphs: Sequence[Path]) -> str:
    """Put the weights of IRs into one file beside the first; every constant of an ``.xml`` names its place in it.

    Args:
        graphs: the ``.xml`` files, changed in place; their own ``.bin`` files are removed.

    Returns:
        The name of the file.
    """
    with WeightsFile(graphs[0].with_name(SHARED_WEIGHTS)) as file:
        for path in graphs:
            own = path.with_suffix(".bin")
            tree = ElementTree.parse(path)
            with own.open("rb") as stream:
                for data in tree.iterfind("layers/layer[@type='Const']/data"):
                    stream.seek(int(data.attrib["offset"]))
                    data.attrib["offset"] = str(file.place(stream.read(int(data.attrib["size"]))))
            own.unlink()
            tree.write(path, encoding="utf-8", xml_declaration=True)
    return SHARED_WEIGHTS


def _descendants(names: Iterable[str], readers: Mapping[str, list[str]]) -> set[str]:
    """The layers themselves and everything that ``readers`` leads to from them."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += readers.get(name, ())
    return reached


def _lowers_precision(layer: Element) -> bool:
    return layer.attrib["type"] == "FakeQuantize" or any(half in _precisions(layer) for half in _HALF)


def _precisions(layer: Element) -> list[str]:
    return [port.attrib["precision"] for port in layer.iterfind("output/port")]


def _mark(layer: Element) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = Element("rt_info")
        position = next(i for i, child in enumerate(layer) if child.tag in ("input", "output"))
        layer.insert(position, info)
    if info.find("attribute[@name='precise']") is None:
        ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
