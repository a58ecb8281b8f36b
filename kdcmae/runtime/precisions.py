"""One record per precision: its size, its names in every library, the CPU instructions that it needs, and its gate.

A new precision is one row of :data:`PRECISIONS`. No library is imported: types of torch and ONNX are names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

from kdcmae.errors import ConfigError
from kdcmae.runtime.metrics import Limits

__all__ = ["FLOATING", "GATES", "PRECISIONS", "QUANTIZED", "Gate", "PrecisionRecord", "gate_for", "named"]


@dataclass(frozen=True, kw_only=True)
class Gate(Limits):
    """Limits for the outputs of a stage that computes in a precision.

    Args:
        chance: error that a stage may add to that of the stage before it, if both compute in the same precision.
        rounding: error that rounding to this precision may add, if the stage before it was not rounded.
    """

    chance: float
    rounding: float

    def __post_init__(self) -> None:
        if self.max_error is not None and not self.max_error >= 0:
            raise ConfigError(f"--max-error {self.max_error} must not be negative")
        for name in ("min_cosine", "min_agreement"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value} must lie between 0 and 1")

    def tightened(self, **limits: float | None) -> Gate:
        """The gate with some limits replaced by tighter ones.

        Raises:
            ConfigError: a limit is looser than the gate's own.
        """
        tighter = {name: value for name, value in limits.items() if value is not None}
        for name, value in tighter.items():
            own = getattr(self, name)
            if own is not None and (value > own if name == "max_error" else value < own):
                raise ConfigError(
                    f"--{name.replace('_', '-')} {value} is looser than the {own} this precision must pass"
                )
        return Gate(**{**asdict(self), **tighter})


@dataclass(frozen=True, kw_only=True)
class PrecisionRecord:
    """A precision of matrix products.

    Args:
        name: value of ``--precision``.
        bytes_per_value: bytes of one stored value.
        torch: name of the dtype in torch, such as ``"bfloat16"`` for ``torch.bfloat16``.
        onnx: name in ONNX's ``TensorProto``; ONNX Runtime has the same name in lower case.
        openvino: names of OpenVINO's element types; the first is also the precision hint of a floating precision.
        tensorrt: name in TensorRT's ``DataType``.
        gate: limits for the outputs of stages that compute in it.
        largest: the largest value of a quantised precision, before scaling; None for a floating precision.
        saturates: x86 CPUs without VNNI add its products in 16 bits, where large products overflow.
        instructions: CPU features, any of which multiplies the precision natively: None if every CPU does, empty if
            none does.
        fast_instructions: those of them whose kernels are faster than float32; None if all are.
        speed: rank for ``--precision auto`` among the floating precisions with fast instructions, the fastest first.
    """

    name: str
    bytes_per_value: int
    torch: str
    onnx: str
    openvino: tuple[str, ...]
    tensorrt: str
    gate: Gate
    largest: float | None = None
    saturates: bool = False
    instructions: frozenset[str] | None = None
    fast_instructions: frozenset[str] | None = None
    speed: int = 0

    @property
    def quantized(self) -> bool:
        """Whether a float32 graph is quantised to it after its export. Floating precisions are in the graph's types."""
        return self.largest is not None

    @property
    def onnxruntime(self) -> str:
        """Name in ONNX Runtime's types, such as ``"float16"`` of ``tensor(float16)``."""
        return self.onnx.lower()


_EIGHT_BITS = Gate(
    max_error=None, min_cosine=0.98, outliers=0.05, max_distance=3e-2, min_agreement=0.9, min_ranked=0.97, tie=2e-2,
    chance=1e-2, rounding=0.4,
)  # fmt: skip

# The gates are chosen from measured engines, with room for other models; docs/proof.md has the measurements and the
# commands. float32 differs by summation order only; fp16 keeps 11 significant bits and bf16 8, and errors of that size
# add up over some twenty blocks. Of int8 only direction, classes and ranking are promised, and clips may lie beyond the
# ranges that it was calibrated for: the largest error of a single clip says little.
_RECORDS = (
    PrecisionRecord(
        name="fp32", bytes_per_value=4, torch="float32", onnx="FLOAT", openvino=("f32",), tensorrt="FLOAT", speed=2,
        gate=Gate(
            max_error=1e-4, min_cosine=0.999999, max_distance=1e-4, min_agreement=1.0, min_ranked=0.999, tie=2e-4,
            chance=2e-5, rounding=1e-4,
        ),
    ),
    PrecisionRecord(
        name="fp16", bytes_per_value=2, torch="float16", onnx="FLOAT16", openvino=("f16",), tensorrt="HALF", speed=1,
        gate=Gate(
            max_error=1e-2, min_cosine=0.9999, max_distance=3e-3, min_agreement=1.0, min_ranked=0.995, tie=5e-3,
            chance=2e-3, rounding=1e-2,
        ),
        instructions=frozenset({"avx512_fp16", "asimdhp"}),
        # OpenVINO's kernels for AVX512_FP16 are slower than its float32 ones.
        fast_instructions=frozenset({"asimdhp"}),
    ),
    PrecisionRecord(
        name="bf16", bytes_per_value=2, torch="bfloat16", onnx="BFLOAT16", openvino=("bf16",), tensorrt="BF16", speed=0,
        gate=Gate(
            max_error=8e-2, min_cosine=0.999, max_distance=1e-2, min_agreement=0.95, min_ranked=0.99, tie=2e-2,
            chance=2e-2, rounding=8e-2,
        ),
        instructions=frozenset({"avx512_bf16", "amx_bf16"}),
    ),
    PrecisionRecord(
        name="int8", bytes_per_value=1, torch="int8", onnx="INT8", openvino=("i8", "u8"), tensorrt="INT8",
        gate=_EIGHT_BITS, largest=127.0, saturates=True,
    ),
    PrecisionRecord(
        name="fp8", bytes_per_value=1, torch="float8_e4m3fn", onnx="FLOAT8E4M3FN", openvino=("f8e4m3",), tensorrt="FP8",
        gate=_EIGHT_BITS, largest=448.0, instructions=frozenset(),
    ),
)  # fmt: skip

PRECISIONS: Mapping[str, PrecisionRecord] = MappingProxyType({record.name: record for record in _RECORDS})
"""Every precision by its name, from the narrowest gate to the widest."""

FLOATING = tuple(record.name for record in _RECORDS if not record.quantized)
"""Names of the precisions that an exported graph can have in its types."""

QUANTIZED = tuple(record.name for record in _RECORDS if record.quantized)
"""Names of the precisions that a float32 graph is quantised to after its export."""

GATES: Mapping[str, Gate] = MappingProxyType({record.name: record.gate for record in _RECORDS})
"""The gate of each precision."""


def gate_for(precisions: Iterable[str]) -> Gate:
    """The gate of a stage that computes in these precisions: the widest of their gates."""
    return GATES[max(precisions, key=list(GATES).index)]


def named(field: str, precisions: Iterable[str] = PRECISIONS) -> dict[str, str]:
    """Precisions by their name in a library, such as ``{"float16": "fp16"}``.

    Args:
        field: field of :class:`PrecisionRecord` with the library's names, such as ``"torch"``.
        precisions: names of the precisions to include.
    """
    by_name: dict[str, str] = {}
    for precision in precisions:
        names = getattr(PRECISIONS[precision], field)
        by_name |= dict.fromkeys((names,) if isinstance(names, str) else names, precision)
    return by_name
