"""The C++ header ``kdcmae.hpp``, which runs engine folders inside C++17 apps, and its CMake package."""

from __future__ import annotations

from importlib import util
from pathlib import Path

__all__ = ["cmake_dir", "onnxruntime_library", "openvino_cmake_dir"]


def cmake_dir() -> Path:
    """Folder of the CMake package, which is also the include folder of ``kdcmae.hpp``."""
    return Path(__file__).resolve().parent


def openvino_cmake_dir() -> Path | None:
    """Folder of the CMake package inside OpenVINO's wheel; None where OpenVINO is not installed."""
    package = _folder_of("openvino")
    return package / "cmake" if package and (package / "cmake").is_dir() else None


def onnxruntime_library() -> Path | None:
    """ONNX Runtime's shared library inside its wheel; None where ONNX Runtime is not installed."""
    package = _folder_of("onnxruntime")
    return next(iter(sorted((package / "capi").glob("libonnxruntime.so.*"))), None) if package else None


def _folder_of(package: str) -> Path | None:
    """Of an installed package, without importing it."""
    spec = util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
