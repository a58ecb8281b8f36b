from __future__ import annotations

import pytest

from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.loader import training_loader
from kdcmae.data.sampling import BatchSampler, InOrder
from kdcmae.data.speed import measure_speed
from kdcmae.runtime.preprocessing import Preprocessing


@pytest.mark.parametrize("workers", [0, 1])
def test_speed_counts_whole_batches(extracted, workers: int) -> None:  # type: ignore[no-untyped-def]
    settings = DatasetSettings(preprocessing=Preprocessing(audio_frames=32, image_size=16))
    dataset = ClipDataset(extracted(5), None, settings)
    loader = training_loader(dataset, BatchSampler(InOrder(5), batch_size=2, drop_last=True), workers=workers)
    measured = measure_speed(loader, seconds=0.05)
    assert measured.clips >= 2
    assert measured.clips % 2 == 0
    assert measured.seconds >= 0.05
    assert measured.clips_per_s == pytest.approx(measured.clips / measured.seconds)
    assert measured.start_s > 0
    if measured.worker_peak_rss_mb is not None:
        assert (measured.worker_peak_rss_mb > 1) == (workers > 0)
