from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from kdcmae.frontend import AnySizeImageFrontend, AudioFrontend, Fbank, ImageFrontend
from kdcmae.runtime.preprocessing import Preprocessing, fbank, prepare_audio, prepare_image, resize_crop_matrices

MODEL = Preprocessing()


@pytest.fixture(scope="module")
def waveform(golden: Path) -> Tensor:
    return torch.from_numpy(np.load(golden / "fbank.npz")["waveform_int16"]).float()[None] / 32768


def frames(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)


class Both(nn.Module):
    """What goes in front of a model inside an engine that takes raw inputs."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.audio, self.image = AudioFrontend(), ImageFrontend(height, width)

    def forward(self, waveform: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        return self.audio(waveform), self.image(frame)


def test_fbank_is_kaldis(golden: Path, waveform: Tensor) -> None:
    difference = np.abs(Fbank()(waveform)[0].numpy() - np.load(golden / "fbank.npz")["fbank"])
    assert difference.mean() < 1e-5
    assert difference.max() < 2e-3


def test_batches_are_independent(waveform: Tensor) -> None:
    module = Fbank()
    batch = torch.stack([waveform[0, :8000], waveform[0, 8000:16000]])
    torch.testing.assert_close(module(batch)[1], module(batch[1:])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [400, 16000, 161123, 200000])
def test_audio_matches_the_numpy_preprocessing(waveform: Tensor, samples: int) -> None:
    sound = waveform.repeat(1, 2)[:, :samples]
    expected = prepare_audio(sound[0].numpy(), 16000, MODEL)
    torch.testing.assert_close(AudioFrontend()(sound), torch.from_numpy(expected), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(360, 640), (640, 360), (224, 224), (101, 173)])
def test_image_matches_the_numpy_preprocessing(height: int, width: int) -> None:
    pictures = frames(2, height, width)
    expected = np.concatenate([prepare_image(picture.numpy(), MODEL) for picture in pictures])
    torch.testing.assert_close(ImageFrontend(height, width)(pictures), torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("height", "width"), [(360, 640), (640, 360), (224, 224), (101, 173), (225, 300), (641, 333), (16, 1920)]
)
def test_matrices_made_from_the_frames_are_those_made_beforehand(height: int, width: int) -> None:
    pictures = frames(2, height, width)
    rows, columns = AnySizeImageFrontend().matrices(pictures.permute(0, 3, 1, 2))
    for made, right in zip((rows, columns), resize_crop_matrices(height, width, 224), strict=True):
        torch.testing.assert_close(made, torch.tensor(right, dtype=torch.float32), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        AnySizeImageFrontend()(pictures), ImageFrontend(height, width)(pictures), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("samples", [400, 16000, 100000])
def test_what_follows_the_samples_is_padding(waveform: Tensor, samples: int) -> None:
    expected = prepare_audio(waveform[0, :samples].numpy(), 16000, MODEL)
    audio = AudioFrontend()(waveform, torch.tensor([samples], dtype=torch.int32))
    torch.testing.assert_close(audio, torch.from_numpy(expected), atol=2e-4, rtol=0)


def test_facts_of_the_model_are_used(waveform: Tensor) -> None:
    facts = replace(MODEL, audio_frames=128, fbank_mean=1.0, fbank_std=2.0, image_size=32, image_std=(1.0, 1.0, 1.0))
    expected = prepare_audio(waveform[0].numpy(), 16000, facts)
    torch.testing.assert_close(AudioFrontend(facts)(waveform), torch.from_numpy(expected), atol=2e-4, rtol=0)
    picture = frames(1, 60, 80)
    expected = prepare_image(picture[0].numpy(), facts)
    torch.testing.assert_close(ImageFrontend(60, 80, facts)(picture), torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_model_keeps_its_frontend_in_float32(waveform: Tensor, dtype: torch.dtype) -> None:
    sound, picture = waveform[:, :16000], frames(1, 60, 80)
    model = nn.ModuleDict({"both": Both(60, 80), "rest": nn.Linear(2, 2)})
    before = model["both"](sound, picture)
    model.to(dtype)
    assert model["rest"].weight.dtype == dtype
    for expected, actual in zip(before, model["both"](sound, picture), strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, atol=0, rtol=0)


def test_autocast_does_not_reach_the_frontend(waveform: Tensor) -> None:
    module, picture = Both(60, 80), frames(1, 60, 80)
    expected = module(waveform, picture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(waveform, picture), expected, atol=0, rtol=0)


def test_the_frontend_moves_between_devices() -> None:
    module = Both(60, 80).to("meta")
    assert {buffer.device.type for buffer in module.buffers()} == {"meta"}


def test_the_frontend_adds_nothing_to_a_checkpoint() -> None:
    assert not Both(60, 80).state_dict()


def test_half_precision_waveforms_are_accepted(waveform: Tensor) -> None:
    sound = waveform[:, :16000].half()
    expected = fbank(sound[0].float().numpy())
    torch.testing.assert_close(Fbank()(sound)[0], torch.from_numpy(expected), atol=1e-3, rtol=0)


def exported(module: nn.Module, sound: Tensor, picture: Tensor, path: Path, **options: object) -> Path:
    arguments = {"waveform": sound, "frame": picture}
    program = torch.onnx.export(module, (), kwargs=arguments, dynamo=True, opset_version=20, verbose=False, **options)
    assert program is not None
    program.save(path)
    return path


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # raised by torch's own exporter
def test_export_to_onnx_computes_the_same(waveform: Tensor, tmp_path: Path) -> None:
    module, picture = Both(144, 256).eval(), frames(1, 144, 256)
    path = exported(module, waveform, picture, tmp_path / "frontend.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"waveform": waveform.numpy(), "frame": picture.numpy()})
    for actual, expected in zip(outputs, module(waveform, picture), strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)

    # TensorRT takes a uint8 input only where it goes straight into a Cast, and nowhere else.
    readers = [node.op_type for node in onnx.load(path).graph.node if "frame" in node.input]
    assert readers == ["Cast"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_export_with_any_batch_and_any_length(waveform: Tensor, tmp_path: Path) -> None:
    module = Both(60, 80).eval()
    batch = torch.export.Dim.DYNAMIC
    path = exported(
        module,
        waveform.repeat(2, 1),
        frames(2, 60, 80),
        tmp_path / "frontend.onnx",
        dynamic_shapes={"waveform": {0: batch, 1: torch.export.Dim("samples", min=400)}, "frame": {0: batch}},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows, samples in ((1, 400), (3, 40000), (2, 200000)):
        sound, picture = waveform.repeat(rows, 2)[:, :samples], frames(rows, 60, 80)
        outputs = session.run(None, {"waveform": sound.numpy(), "frame": picture.numpy()})
        for actual, expected in zip(outputs, module(sound, picture), strict=True):
            np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)
