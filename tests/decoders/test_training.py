"""Training: it learns, it repeats, it resumes to the same network, and it says what is wrong."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.decoders.network import Autoencoder
from recon.decoders.training import (
    TrainingError,
    TrainingSettings,
    psnr_per_image,
    train,
    validation_psnr_db,
)
from recon.device import DeviceError, pick_device
from tests.decoders.shapes import FAST, TINY, discs

IMAGES = discs(256, TINY.image_size, 0)
VALIDATION = discs(64, TINY.image_size, 1)


def _train(settings: TrainingSettings = FAST, images=IMAGES, **options):
    return train(images, VALIDATION, TINY, settings, source="discs", **options)


def _same(a: Autoencoder, b: Autoencoder) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def trained():
    return _train()


def test_the_loss_falls_and_the_image_gets_better():
    network, record = _train(replace(FAST, epochs=40, batch=16, learning_rate=1e-2))
    history = record["history"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert record["validation_psnr_db"] > history[0]["validation_psnr_db"] + 3
    assert record["validation_psnr_db"] == pytest.approx(validation_psnr_db(network, torch.from_numpy(VALIDATION)))


def test_the_record_says_how_it_was_made(trained):
    _, record = trained
    assert record["source"] == "discs"
    assert record["images"] == len(IMAGES)
    assert record["settings"] == {
        "epochs": 4,
        "batch": 32,
        "learning_rate": 5e-3,
        "seed": 3,
        "linear_start": "orthogonal",
    }
    assert len(record["history"]) == 4
    assert set(record["versions"]) == {"torch", "python"}


def test_the_same_seed_gives_the_same_network_and_another_another(trained):
    before = torch.random.get_rng_state()
    again, _ = _train()
    assert torch.equal(torch.random.get_rng_state(), before)
    other, _ = _train(replace(FAST, seed=4))
    assert _same(trained[0], again)
    assert not _same(trained[0], other)


def test_arrays_and_tensors_train_alike(trained):
    network, _ = _train(images=torch.from_numpy(IMAGES))
    assert _same(trained[0], network)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_training_goes_on_to_the_identical_network(trained, tmp_path, stop_after):
    checkpoint = tmp_path / "discs.checkpoint"

    def stop(report):
        if report.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(checkpoint=checkpoint, report=stop)
    epochs, steps = [], []
    network, record = _train(
        checkpoint=checkpoint,
        report=lambda r: epochs.append(r.epoch),
        step=lambda done, total: steps.append((done, total)),
    )
    assert epochs == list(range(stop_after + 1, 5))
    assert steps[0] == (8 * stop_after, 32)
    assert steps[-1] == (32, 32)
    assert _same(trained[0], network)
    assert record["history"] == trained[1]["history"]


def test_a_training_broken_off_within_an_epoch_repeats_that_epoch(trained, tmp_path):
    checkpoint = tmp_path / "discs.checkpoint"

    def stop(done, _total):
        if done == 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(checkpoint=checkpoint, step=stop)
    network, _ = _train(checkpoint=checkpoint)
    assert _same(trained[0], network)


def test_a_finished_training_is_not_repeated(trained, tmp_path):
    checkpoint = tmp_path / "discs.checkpoint"
    _train(checkpoint=checkpoint)
    epochs = []
    network, record = _train(checkpoint=checkpoint, report=lambda r: epochs.append(r.epoch))
    assert epochs == []
    assert _same(trained[0], network)
    assert record["history"] == trained[1]["history"]


@pytest.mark.parametrize("change", ["settings", "images"])
def test_another_trainings_checkpoint_is_left_out_of_account(tmp_path, change):
    checkpoint = tmp_path / "discs.checkpoint"
    _train(replace(FAST, epochs=1), checkpoint=checkpoint)
    settings = replace(FAST, epochs=1, seed=8) if change == "settings" else replace(FAST, epochs=1)
    images = discs(256, TINY.image_size, 6) if change == "images" else IMAGES
    epochs = []
    network, _ = _train(settings, images, checkpoint=checkpoint, report=lambda r: epochs.append(r.epoch))
    fresh, _ = _train(settings, images)
    assert epochs == [1]
    assert _same(network, fresh)


def test_a_broken_or_foreign_checkpoint_is_refused_and_never_run(tmp_path):
    victim, checkpoint = tmp_path / "victim", tmp_path / "discs.checkpoint"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (victim,))

    torch.save({"anything": torch.zeros(1)}, checkpoint)
    with pytest.raises(TrainingError, match="not a checkpoint of this program"):
        _train(checkpoint=checkpoint)
    for content in (b"", b"nonsense", pickle.dumps(Trap(), protocol=2)):
        checkpoint.write_bytes(content)
        with pytest.raises(TrainingError, match=r"discs.checkpoint: not a readable checkpoint .*delete it") as caught:
            _train(checkpoint=checkpoint)
        assert "\n" not in str(caught.value)
    torch.save(Trap(), checkpoint)
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        _train(checkpoint=checkpoint)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 32, 32), np.float32), r"shape \(5, 32, 32\), the architecture takes \(n, 16, 16\)"),
        (np.zeros((0, 16, 16), np.float32), "training images have shape"),
        (np.zeros((16, 16), np.float32), "training images have shape"),
        (np.full((2, 16, 16), 255, np.float32), "leave 0 .. 1"),
        (np.full((2, 16, 16), np.nan, np.float32), "leave 0 .. 1"),
    ],
)
def test_unfit_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        _train(images=images)


def test_divergence_is_an_error_not_a_decoder():
    with pytest.raises(TrainingError, match=r"diverged in epoch \d+.*lower learning_rate"):
        _train(TrainingSettings(epochs=3, batch=8, learning_rate=1e30, seed=0))


def test_devices():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("toaster", "cuda:99"):
        with pytest.raises(DeviceError, match=rf"device '{name}' is not usable here .*use auto or cpu"):
            pick_device(name)


def test_the_psnr_is_the_papers():
    truth = torch.zeros(2, 4, 4)
    estimate = torch.stack([torch.full((4, 4), 0.1), torch.full((4, 4), 1.0)])
    assert psnr_per_image(estimate, truth).tolist() == pytest.approx([20.0, 0.0], abs=1e-5)
