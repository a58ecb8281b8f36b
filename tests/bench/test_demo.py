from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kdcmae.bench import demo
from kdcmae.errors import GateError
from kdcmae.runtime.capabilities import fastest_floating
from kdcmae.runtime.cpu import CLASSES, describe_cpu


def built(median_ms: float, **precision: str) -> Any:
    """As much of a manifest as is looked at."""
    return SimpleNamespace(precision=precision, build={"latency": {"median_ms": median_ms}})


@pytest.mark.parametrize("name", CLASSES)
def test_one_sentence_says_why_on_every_kind_of_processor(name: str) -> None:
    precision, because = fastest_floating("openvino", cpu=describe_cpu(name))
    sentence = demo.why_chosen(built(5.25, asked=precision, chosen=because), built(4.125, asked="int8"))
    assert sentence.startswith(f"The first engine is in {precision} because a CPU of class {name} multiplies no faster")
    assert "a clip took it 5.25 ms" in sentence
    assert "4.12 ms the one in int8" in sentence


def test_no_step_asks_for_a_precision_that_a_processor_may_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    commands: list[str] = []

    def stop_at_the_benchmark(command: str) -> None:
        commands.append(command)
        if command.startswith("kdcmae-bench"):
            raise GateError("enough")

    monkeypatch.setattr(demo, "_run", stop_at_the_benchmark)
    with pytest.raises(SystemExit):
        demo.main(["--output", str(tmp_path / "demo")])
    openvino = [command for command in commands if "--target openvino" in command]
    assert ["--precision int8" in command for command in openvino] == [False, True]
    assert all("bf16" not in command and "--precision fp" not in command for command in openvino)
