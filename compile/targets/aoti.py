"""AOTInductor engines: machine code that PyTorch's compiler makes of the exported program, in one package."""

from __future__ import annotations

import functools
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcmae.compile.stages import Values
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents, LayerRequest, Target
from kdcmae.errors import EngineError
from kdcmae.runtime.aoti import require_scratch
from kdcmae.runtime.arrays import Arrays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdcmae.compile.settings import CompileSettings

__all__ = ["TARGET", "AotInductor", "compiled_values"]

_FILE = "model.pt2"


class AotInductor(Target):
    """Compiles the program with PyTorch's own compiler and the machine's C++ compiler."""

    name = "aoti"
    reads_onnx = False
    searched = ("fp32", "bf16")

    def require(self) -> None:
        from kdcmae.compile.targets import aoti_package

        aoti_package.require_compiler()
        require_scratch()

    def build(self, request: BuildRequest) -> BuiltEngine:
        import torch

        from kdcmae.compile.targets import aoti_package

        assert request.program is not None
        device, path = request.device or "cpu", request.folder / _FILE
        aoti_package.compile_package(request.program, path, device)
        executed = aoti_package.executed_precision(path)
        return BuiltEngine(
            engine={"file": _FILE, "device": device, **aoti_package.bound_to(device)},
            libraries={"torch": torch.__version__.partition("+")[0]},
            executed=executed,
            read_from="the code that AOTInductor generated",
            products=sum((Counter(executed.get(kind)) for kind in aoti_package.PRODUCTS), Counter()),
            run=None,  # what was built is the package
        )

    def inspect(self, path: Path) -> Contents:
        from kdcmae.compile.targets import aoti_package

        try:
            return Contents(format="AOTInductor package", operations=aoti_package.executed_precision(path))
        except zipfile.BadZipFile as error:
            raise EngineError(
                f"{path} is not an AOTInductor package: {error}; rebuild it with kdcmae-compile"
            ) from error

    def layer_values(self, request: LayerRequest) -> Values | None:
        self.require()
        return compiled_values(request)

    def hidden(self, settings: CompileSettings) -> str:
        return "stage 'aoti' was compiled with the layers among its outputs: a package gives no values from inside"


TARGET = AotInductor()


def compiled_values(request: LayerRequest) -> Values:
    """Outputs of modules as compiled code computes them; the module is compiled again with these among its outputs."""
    import torch

    from kdcmae.compile import export
    from kdcmae.compile.targets import aoti_package

    device = request.settings.device or "cpu"
    present = {name for name, _ in request.lowered.named_modules()}

    @functools.cache
    def compiled(*wanted: str) -> Callable[..., Sequence[Tensor]]:
        package = request.folder / f"{len(wanted)}-layers.pt2"
        with _also_giving(request.lowered, wanted):
            program = export.export_program(request.model, request.lowered, request.settings.batch)
        aoti_package.compile_package(program, package, device)
        run: Callable[..., Sequence[Tensor]] = torch._inductor.aoti_load_package(str(package))
        return run

    def values(names: Sequence[str], inputs: Arrays) -> Arrays:
        wanted = [name for name in names if name in present]
        # Compiled code takes the strides for granted that it was traced with.
        feed = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = compiled(*wanted)(**{name: tensor.to(device) for name, tensor in feed.items()})
        layers = outputs[len(request.model.outputs) :]
        return {name: output.float().cpu().numpy() for name, output in zip(wanted, layers, strict=True)}

    return values


@contextmanager
def _also_giving(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Make a module return what its named submodules return, after its own outputs."""
    from kdcmae.compile.layers import observed

    seen: dict[str, Tensor] = {}

    def more(_: nn.Module, __: Any, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*outputs, *(seen[name] for name in names))

    with observed(module, names, seen.__setitem__):
        handle = module.register_forward_hook(more)
        try:
            yield
        finally:
            handle.remove()
