from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.avsynth.memory import AVSynth, open_avsynth
from kdcmae.data.avsynth.scene import FRAME_NUMBERS, draw_scene, frame, sound
from kdcmae.errors import ConfigError


def test_clips_are_those_of_their_scenes() -> None:
    data = AVSynth("test", clips=3, seed=4)
    clip = data.read(data.records[2], "audiovisual", [5, 0])
    scene = draw_scene("test", 2, seed=4)
    np.testing.assert_array_equal(clip.waveform, sound(scene))
    for number, made in zip((5, 0), clip.frames, strict=True):
        np.testing.assert_array_equal(made, frame(scene, FRAME_NUMBERS[number]))


def test_sound_that_was_made_is_kept() -> None:
    data = AVSynth("train", clips=2)
    first, again = (data.read(data.records[0], "audiovisual", numbers) for numbers in ([1], [1, 2]))
    assert np.shares_memory(first.waveform, again.waveform)
    assert first.frames[0] is again.frames[0]


def test_names_of_avsynth() -> None:
    opened = open_avsynth("avsynth:7", split="valid")
    assert opened is not None
    assert [record.id for record in opened.records[:1]] == ["valid-000000"]
    assert len(opened.records) == 7
    assert open_avsynth("train.jsonl", split="train") is None
    for wrong in ("avsynth:", "avsynth:0", "avsynth:many"):
        with pytest.raises(ConfigError, match="write a number of clips"):
            open_avsynth(wrong, split="train")
    assert open_avsynth("avsynthetic.jsonl", split="train") is None


def test_the_name_means_avsynth_where_a_folder_has_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_avsynth("avsynth:3", split="train") is not None
    (tmp_path / "avsynth").mkdir()
    assert caplog.messages == []
    assert open_avsynth("avsynth", split="test") is not None
    assert "write ./avsynth for the file or folder here" in caplog.text
    for folder in ("./avsynth", str(tmp_path / "avsynth"), Path("avsynth")):
        assert open_avsynth(folder, split="train") is None
