"""Packages of AOTInductor: how they are compiled, and what of them executes in which precision.

A package holds the code that it was made from, and the precisions are read from that.
"""

from __future__ import annotations

import re
import shlex
import tempfile
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._inductor import aot_compile, cpp_builder
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.package.package import package_aoti
from torch._inductor.utils import fresh_cache
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from kdcmae import host
from kdcmae.compile import memory
from kdcmae.compile.targets import plain_counts
from kdcmae.errors import BrokenDependencyError, EngineError, cause
from kdcmae.runtime.precisions import FLOATING, named

__all__ = ["PRODUCTS", "bound_to", "compile_package", "executed_precision", "require_compiler"]

_PRECISIONS = named("torch", FLOATING)
_LOW = {"at::Half": "fp16", "at::BFloat16": "bf16"}
PRODUCTS = ("addmm", "baddbmm", "bmm", "convolution", "mm")
# What the names of generated kernels call these layers.
_KERNELS = {"native_layer_norm": "LayerNormalization", "_softmax": "Softmax", "gelu": "Gelu"}
_SETTINGS = {
    # The number of threads is the app's choice, not that of the machine that compiled.
    "cpp.dynamic_threads": True,
    # They pay when many models are compiled; one is done sooner without.
    "aot_inductor.precompile_headers": False,
    # Weights go to the end of the library's file: an assembler would be given one more copy of them.
    "aot_inductor.force_mmap_weights": True,
    "aot_inductor.package": True,
}


def require_compiler() -> None:
    """Check that there is a C++ compiler.

    Raises:
        BrokenDependencyError: there is none; the message says how to install one.
    """
    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise BrokenDependencyError(
            "AOTInductor found no C++ compiler; install one with: apt-get install g++ (or name it in CXX)"
        ) from error


def compile_package(program: ExportedProgram, path: Path, device: str) -> None:
    """Compile a program, leaving nothing behind but the package.

    Args:
        program: on the CPU; it is used up. While the C++ compiler needs memory too, its weights are mapped from a file,
            and they are taken out of it before packing, which holds two copies of its own.
        device: that it is for, ``"cpu"`` or ``"cuda"``.

    Raises:
        EngineError: the compiler failed, or there is no room for its files.
    """
    pick_vec_isa()  # tries the compiler on the processor's instructions; remembered in the shared cache
    # In that cache every build would leave a copy of the weights.
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as folder,
        _plain_path(Path(folder)) as scratch,
        fresh_cache(dir=str(scratch)),
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        try:
            _map_weights(program, scratch / "weights.pt")
            files = _compile(program, device)
            program.state_dict.clear()
            memory.trim()
            package_aoti(str(path), files)
        except RuntimeError as error:
            reason = cause(error)
            raise EngineError(f"AOTInductor {torch.__version__} could not build the engine: {reason}") from error


@contextmanager
def _plain_path(folder: Path) -> Iterator[Path]:
    """A path of the folder without spaces and the like, at which AOTInductor's command lines would be cut.

    Raises:
        EngineError: the folder for temporary files has such a path too.
    """
    if shlex.quote(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="kdcmae-aoti-") as links:
        link = Path(links, "build")
        if shlex.quote(str(link)) != str(link):
            raise EngineError(
                f"AOTInductor cannot build in {folder} nor in {links}; set TMPDIR to a path without spaces"
            )
        link.symlink_to(folder)
        yield link


def _map_weights(program: ExportedProgram, file: Path) -> None:
    """Put the weights of a program into a file that is mapped: the system can take such memory back."""
    try:
        torch.save(program.state_dict, file)
    except RuntimeError as error:
        reason = cause(error)
        raise EngineError(f"the weights cannot be written to {file.parent}: {reason}; is the disk full?") from error
    program.state_dict.update(torch.load(file, mmap=True, weights_only=True))
    memory.trim()


def _compile(program: ExportedProgram, device: str) -> list[Any]:
    """The files that belong into the package."""
    if device == "cuda":
        program = move_to_device_pass(program, device)
    assert program.example_inputs is not None
    args, kwargs = program.example_inputs
    # The compiler draws a number that ties the library to its weights: the same one every time.
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        files = aot_compile(program.module(check_guards=False), args, kwargs, options=dict(_SETTINGS))
    assert isinstance(files, list)
    return files


def bound_to(device: str) -> dict[str, object]:
    """What the machine code needs of the device it runs on."""
    if device == "cpu":
        return {"cpu_features": sorted(host.cpu_features())}
    return {"compute_capability": "{}.{}".format(*torch.cuda.get_device_capability())}


def executed_precision(package: Path) -> dict[str, dict[str, int]]:
    """Count what computes in which precision, from the code the package was made from.

    Matrix products are calls into a library, which computes in the type of its output. The other layers are
    generated loops; on a GPU the package holds only their binaries, and they are not counted.

    Args:
        package: a ``.pt2`` file.

    Returns:
        Layers by class and precision, such as ``{"addmm": {"bf16": 37, "fp32": 1}}``.
    """
    with zipfile.ZipFile(package) as archive:
        sources = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".cpp")]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for source in sources:
        for kind, precision in (*_called(source), *_generated(source)):
            counts[kind][precision] += 1
    return plain_counts(counts)


_ALLOCATED = re.compile(r"aoti_torch_empty_strided\w*\([^;]*?cached_torch_dtype_(\w+),[^;]*?&(\w+)_handle\)")
_VIEW = r"(?:wrap_with_raii_handle_if_needed\(reinterpret_tensor_wrapper\()"
_ALIAS = re.compile(rf"auto (\w+) = (?:std::move\(|{_VIEW})(\w+)")
_CALL = re.compile(rf"aoti_torch_(?:cpu|cuda)_({'|'.join(PRODUCTS)})_out\({_VIEW}?(\w+)")


def _called(source: str) -> list[tuple[str, str]]:
    """The products that generated code calls, and the precision of the buffer each writes."""
    types = {name: _PRECISIONS.get(dtype, dtype) for dtype, name in _ALLOCATED.findall(source)}
    for name, other in _ALIAS.findall(source):
        types[name] = types.get(other, "unknown")
    return [(kind, types.get(name, "unknown")) for kind, name in _CALL.findall(source)]


_KERNEL = re.compile(r"^extern \"C\"\s+void\s+(cpp_fused_\w+)\([^)]*\)\s*\{(.*?)^\}", re.MULTILINE | re.DOTALL)
_LOADED = re.compile(r"auto (\w+) = at::vec::Vectorized(?:N)?<(at::Half|at::BFloat16)[^;=]*?::loadu\(")
_WIDENED = re.compile(r"convert<float[^>]*>\((\w+)\)")


def _generated(source: str) -> list[tuple[str, str]]:
    """The layers in generated loops, and the precision they compute in: that of values loaded and not widened."""
    layers = []
    for name, body in _KERNEL.findall(source):
        widened = set(_WIDENED.findall(body))
        narrow = {_LOW[kind] for value, kind in _LOADED.findall(body) if value not in widened}
        narrow |= {_LOW[kind] for kind in re.findall(r"(at::Half|at::BFloat16) tmp_acc", body)}
        precision = min(narrow, default="fp32")
        layers += [(layer, precision) for part, layer in _KERNELS.items() if part in name]
    return layers
