from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcmae.assets import default_checkpoint
from kdcmae.bench import demo
from kdcmae.errors import GateError
from kdcmae.runtime.capabilities import fastest_floating
from kdcmae.runtime.cpu import CLASSES, describe_cpu


def built(speed: dict[str, Any] | None = None, **precision: str) -> Any:
    """As much of a manifest as is looked at."""
    return SimpleNamespace(precision=precision, build={"speed": speed})


@pytest.mark.parametrize("name", CLASSES)
def test_one_sentence_says_why_on_every_kind_of_processor(name: str) -> None:
    precision, because = fastest_floating("openvino", cpu=describe_cpu(name))
    speed = {
        **{"against": precision, "median_ms": 4.125, "against_ms": 5.25},
        **{"speed": 1.27, "speed_low": 1.2, "speed_high": 1.3},
    }
    sentence = demo.why_chosen(built(asked=precision, chosen=because), built(speed, asked="int8"))
    assert sentence.startswith(f"The first engine is in {precision} because a CPU of class {name} multiplies no faster")
    assert f"int8 is 1.27 times as fast (1.20-1.30) as {precision} on this machine: 4.12 ms against 5.25" in sentence


def test_no_step_asks_for_a_precision_that_a_processor_may_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    commands: list[str] = []

    def stop_at_the_benchmark(command: str) -> None:
        commands.append(command)
        if command.startswith("kdcmae-bench"):
            raise GateError("enough")

    monkeypatch.setattr(demo, "_run", stop_at_the_benchmark)
    monkeypatch.chdir(default_checkpoint().parents[1])
    checkpoint = default_checkpoint().relative_to(Path.cwd())  # as a user would type it
    with pytest.raises(SystemExit):
        demo.main(["--output", str(tmp_path / "demo")])
    assert commands[-1].startswith(f"kdcmae-bench {checkpoint} ")
    openvino = [command for command in commands if "--target openvino" in command]
    assert ["--precision int8" in command for command in openvino] == [False, True]
    assert all("bf16" not in command and "--precision fp" not in command for command in openvino)
