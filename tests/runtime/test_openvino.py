from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import EngineError
from kdcmae.runtime import load_engine
from kdcmae.runtime.cpu import CAP_VARIABLE, this_cpu
from kdcmae.runtime.manifest import TensorSpec
from kdcmae.runtime.openvino import OpenVINOBackend, compile_native, read_execution
from kdcmae.runtime.openvino_library import import_openvino, openvino_core


def with_precision(precision: Any) -> dict[str, Any]:
    return {"engine": {"file": "model.xml", "device": "CPU", "inference_precision": precision}}


def products(folder: Any) -> dict[str, int]:
    """How many matrix products run in which precision."""
    with load_engine(folder) as engine:
        assert isinstance(engine.backend, OpenVINOBackend)
        return dict(engine.backend.execution().products)


def test_executed_precision_is_what_the_hint_asked_for(tiny: Any) -> None:
    assert products(tiny.make("openvino", ["audio", "image"], **with_precision("f32"))) == {"fp32": 2}


def test_executed_precision_tells_bfloat16_from_float32(tiny: Any) -> None:
    if not this_cpu().multiplies("bf16"):
        pytest.skip("this CPU has no bfloat16 arithmetic")
    assert products(tiny.make("openvino", ["audio", "image"], **with_precision("bf16"))) == {"bf16": 2}


def test_a_precision_that_this_cpu_does_not_multiply_runs_in_float32(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAP_VARIABLE, "AVX512_CORE")  # where OpenVINO itself would emulate it
    assert products(tiny.make("openvino", ["audio", "image"], **with_precision("bf16"))) == {"fp32": 2}


@pytest.mark.parametrize(("device", "hint"), [("CPU", "f32"), ("CPU.0", "f32"), ("GPU", "bf16")])
def test_a_hint_for_another_device_stays(device: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAP_VARIABLE, "AVX2")
    asked: list[Any] = []
    core = SimpleNamespace(compile_model=lambda model, *how: asked.append(how))
    monkeypatch.setattr("kdcmae.runtime.openvino.openvino_core", lambda: core)
    compile_native(SimpleNamespace(get_ordered_ops=list), device, "bf16", {"A": 1})
    assert asked == [(device, {"A": 1, "INFERENCE_PRECISION_HINT": hint})]


def test_bfloat16_types_of_a_model_become_float32_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint alone leaves them, and OpenVINO emulates them."""
    ov, opset = import_openvino(), pytest.importorskip("openvino.opset13")
    weights = opset.constant(ov.Tensor(np.array([0x3F80, 0x4000], np.uint16), [2], ov.Type.bf16))  # 1 and 2
    values = opset.parameter([1, 2], np.float32, name="values")
    result = opset.convert(opset.multiply(opset.convert(values, "bf16"), weights), "f32")
    monkeypatch.setenv(CAP_VARIABLE, "AVX512_CORE")
    compiled = compile_native(ov.Model([result], [values]), "CPU", "bf16", {})
    fine = np.array([[1 + 2**-12, 3]], np.float32)  # bfloat16 would round it
    np.testing.assert_array_equal(compiled(fine)[0], fine * [1, 2])
    assert not any("bf16" in counts for counts in read_execution(compiled).executed.values())


@pytest.mark.parametrize("precision", ["fp32", None, 16])
def test_an_unknown_precision_is_refused(tiny: Any, precision: Any) -> None:
    folder = tiny.make("openvino", **with_precision(precision))
    with pytest.raises(EngineError, match=r"engine\.inference_precision must be one of f32, f16, bf16"):
        load_engine(folder)


def test_a_quota_of_cpus_limits_the_threads(tiny: Any, quota: Any) -> None:
    folder = tiny.make("openvino")
    quota(1)
    for threads, expected in ((None, 1), (2, 2)):
        with load_engine(folder, threads=threads) as engine:
            assert engine.backend._models[-1].get_property("INFERENCE_NUM_THREADS") == expected


def test_threads_of_the_manifest_give_way_to_the_callers(tiny: Any) -> None:
    folder = tiny.make("openvino", engine=with_precision("f32")["engine"] | {"threads": 1})
    for threads, expected in ((None, 1), (2, 2)):
        with load_engine(folder, threads=threads) as engine:
            [model] = engine.backend._models
            assert model.get_property("INFERENCE_NUM_THREADS") == expected


def test_a_tensor_is_known_by_any_of_its_names(tiny: Any) -> None:
    """An IR made from a graph that ends in an identity carries the names from before and after it."""
    folder = tiny.make("openvino", ["audio"])
    [output] = openvino_core().read_model(folder / "model.xml").outputs
    assert output.get_names() == {"logits", "audio.term"}
    assert load_engine(folder).self_test().passed


def test_half_precision_outputs_come_back_as_float32(tiny: Any) -> None:
    ov = import_openvino()
    outputs = (TensorSpec("logits", ("batch", 3), "float16", ""),)
    folder = tiny.make("openvino", outputs=outputs)
    model = openvino_core().read_model(folder / "model.xml")
    conversion = ov.preprocess.PrePostProcessor(model)
    conversion.output("logits").tensor().set_element_type(ov.Type.f16)
    half = conversion.build()
    del model
    (folder / "model.bin").unlink()
    ov.save_model(half, folder / "model.xml", compress_to_fp16=False)
    tiny.manifest("openvino", outputs=outputs).write(folder)

    feed = tiny.feed(["x"], 2)
    logits = load_engine(folder).infer(feed)["logits"]

    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, tiny.logits(feed), rtol=2e-3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "assert sys.modules['openvino_telemetry'] is None"),
        ("sys.modules['openvino_telemetry'] = sys", "assert sys.modules['openvino_telemetry'] is sys"),
    ],
    ids=["off", "an app's own choice"],
)
def test_importing_openvino_sends_no_telemetry(before: str, after: str) -> None:
    script = (
        f"import sys\n{before}\nfrom kdcmae.runtime.openvino_library import import_openvino\nimport_openvino()\n{after}"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_converter_of_openvino_is_imported_when_it_is_first_used() -> None:
    script = """
import sys
from kdcmae.runtime.openvino_library import import_openvino

openvino = import_openvino()
assert "openvino.tools.ovc" not in sys.modules
assert not hasattr(openvino, "no_such_name")
from openvino import convert_model
assert convert_model is sys.modules["openvino.tools.ovc"].convert_model
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def in_two(tiny: Any, *, gives: str = "x", **manifest_changes: Any) -> Path:
    """An engine whose frontend turns ``bytes`` into ``x``, which the engine's own file takes."""
    ov = import_openvino()
    opset = ov.opset13
    folder: Path = tiny.make("openvino")
    pixels = opset.parameter([-1, 5, 4], ov.Type.u8, name="bytes")
    x = opset.convert(pixels, "f32")
    x.output(0).set_names({gives})
    pixels.output(0).set_names({"bytes"})
    ov.save_model(ov.Model([x], [pixels]), folder / "frontend.xml", compress_to_fp16=False)
    inputs = (TensorSpec("bytes", ("batch", 5, 4), "uint8", ""),)
    engine = with_precision("f32")["engine"] | {"frontend": "frontend.xml"}
    tiny.manifest("openvino", inputs=inputs, engine=engine, **manifest_changes).write(folder)
    return folder


@pytest.mark.parametrize("batch", [1, 3])
def test_a_frontend_runs_first_and_hands_its_memory_on(tiny: Any, batch: int) -> None:
    feed = np.random.default_rng(0).integers(0, 256, (batch, 5, 4), dtype=np.uint8)
    with load_engine(in_two(tiny)) as engine:
        logits = engine.infer({"bytes": feed})["logits"]
        first, second = engine.backend._pipelines[0]._requests
        assert np.shares_memory(first.get_tensor("x").data, second.get_tensor("x").data)
    np.testing.assert_allclose(logits, tiny.logits({"x": feed.astype(np.float32)}), rtol=1e-5)


def test_inputs_that_must_not_be_written_are_copied(tiny: Any) -> None:
    feed = np.random.default_rng(0).standard_normal((1, 5, 4), dtype=np.float32)
    feed.flags.writeable = False
    with load_engine(tiny.make("openvino")) as engine:
        np.testing.assert_allclose(engine.infer({"x": feed})["logits"], tiny.logits({"x": feed}), rtol=1e-5)


def test_a_frontend_of_another_engine_is_refused(tiny: Any) -> None:
    with pytest.raises(EngineError, match="the frontend gives y and the engine takes x f32; rebuild it"):
        load_engine(in_two(tiny, gives="y"))


@pytest.mark.parametrize("name", ["frontend.xml", "frontend.bin"])
def test_a_frontend_must_be_under_a_digest(tiny: Any, name: str) -> None:
    folder = in_two(tiny)
    tiny.edit(folder, lambda content: content["files"].pop(name))
    with pytest.raises(EngineError, match=rf"files does not list {name}"):
        load_engine(folder)


def test_signals_are_handled_after_engines_ended_in_the_order_they_began(tiny: Any) -> None:
    """Each engine's own Core would leave the other's signal stack behind, unmapped."""
    folder = tiny.make("openvino")
    script = (
        "import signal, sys\n"
        "from kdcmae.runtime import load_engine\n"
        "first, second = load_engine(sys.argv[1]), load_engine(sys.argv[1])\n"
        "for engine in (first, second):\n"
        "    engine.close()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "handled\n")


def test_a_precision_that_the_cpu_does_not_multiply_gives_way_to_the_next(tiny: Any) -> None:
    """Below a cap of oneDNN, OpenVINO still names bfloat16 among its precisions and cannot compile it."""
    folder = tiny.make("openvino", ["audio", "image"], **with_precision("bf16"))
    script = (
        "import sys\n"
        "from kdcmae.runtime import load_engine\n"
        "with load_engine(sys.argv[1]) as engine:\n"
        "    assert engine.self_test().passed\n"
        "    print(dict(engine.backend.execution().products))\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    finished = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=False, env=environment
    )
    assert finished.stdout == "{'fp32': 2}\n", finished.stderr


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"streams": 2}])
def test_openvino_may_choose_the_device(tiny: Any, options: dict[str, Any]) -> None:
    """It is the CPU here. What executes is known as if the CPU had been named."""
    with load_engine(tiny.make("openvino", ["audio"]), device="auto", **options) as engine:
        assert engine.device == "CPU"
        assert engine.products() == {"fp32": 1}
        assert engine.self_test().passed


def test_a_chosen_device_gets_a_precision_that_it_multiplies(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAP_VARIABLE, "AVX512_CORE")  # where OpenVINO itself would emulate bfloat16
    folder = tiny.make("openvino", ["audio"], **with_precision("bf16"))
    with load_engine(folder, device="AUTO") as engine:
        assert engine.products() == {"fp32": 1}
