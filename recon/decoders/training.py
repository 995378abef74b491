"""Training of an autoencoder: Adam, binary cross-entropy, shuffled, checkpointed after every epoch."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recon.decoders.network import Architecture, Autoencoder, in_channels
from recon.files.whole import whole

CHECKPOINT_KEYS = {"identity", "network", "optimiser", "schedule", "history"}


class TrainingError(Exception):
    """A training cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: passes over the training images (the paper: 50; 27 dB takes 14 with this schedule).
        batch: images per step.
        learning_rate: peak of the one-cycle schedule.
        seed: of initialisation and shuffling; the same seed gives the same network on the same machine.
        linear_start: of the square layers, "orthogonal" or "glorot" (`recon.decoders.network.LINEAR_STARTS`).
    """

    epochs: int = 16
    batch: int = 128
    learning_rate: float = 1.5e-3
    seed: int = 0
    linear_start: str = "orthogonal"


@dataclass(frozen=True)
class EpochReport:
    """What one finished epoch has shown: mean training loss (nats a pixel) and validation PSNR (dB)."""

    epoch: int
    epochs: int
    loss: float
    validation_psnr_db: float


def psnr_per_image(estimate: Tensor, truth: Tensor) -> Tensor:
    """Eq. 3 of the paper for each image of a stack (n, s, s) or (n, c, s, s), all channels alike; dB, peak value 1."""
    error = (estimate - truth).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


@torch.no_grad()
def validation_psnr_db(network: Autoencoder, images: Tensor, batch: int = 1000) -> float:
    """Mean PSNR of encoded and decoded images (n, s, s) or (n, c, s, s), dB."""
    values = [psnr_per_image(network(chunk), chunk) for chunk in in_channels(images).split(batch)]
    return float(torch.cat(values).mean())


def _stack(images: Tensor | NDArray[np.float32], what: str, architecture: Architecture) -> Tensor:
    stack = torch.as_tensor(images, dtype=torch.float32).cpu()
    size, channels = architecture.image_size, architecture.channels
    wanted = (size, size) if channels == 1 else (channels, size, size)
    if len(stack) == 0 or tuple(stack.shape[1:]) != wanted:
        takes = ", ".join(("n", *map(str, wanted)))
        raise ValueError(f"{what} images have shape {tuple(stack.shape)}, the architecture takes ({takes})")
    if not (stack.isfinite().all() and stack.min() >= 0 and stack.max() <= 1):
        raise ValueError(f"{what} images leave 0 .. 1")
    return stack


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()


def _load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path}: not a readable checkpoint ({reason}); delete it to train afresh") from None
    if not isinstance(state, dict) or set(state) != CHECKPOINT_KEYS:
        raise TrainingError(f"{path}: not a checkpoint of this program; delete it to train afresh")
    return state if state["identity"] == identity else None


def train(
    images: Tensor | NDArray[np.float32],
    validation: Tensor | NDArray[np.float32],
    architecture: Architecture,
    settings: TrainingSettings,
    *,
    source: str,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Callable[[EpochReport], None] = lambda _: None,
    step: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Autoencoder, dict[str, Any]]:
    """Train on images in 0..1 and return the network, on the CPU, and the record of its training.

    Images are (n, s, s), or (n, c, s, s) where the architecture has more channels than one.

    With `checkpoint` the state after every epoch is kept there and an interrupted training with the same settings,
    architecture and images goes on from it; another training's checkpoint is left out of account and replaced.
    `report` is called after every epoch, `step` after every step with the steps done and in all, and once at the
    start.

    Raises:
        ValueError: the images do not have the architecture's size, are none, or leave 0 .. 1.
        TrainingError: the loss is no longer finite, or the checkpoint cannot be read.
    """
    if settings.epochs < 1 or settings.batch < 1:
        raise ValueError(f"epochs {settings.epochs} and batch {settings.batch} must be at least 1")
    images = _stack(images, "training", architecture)
    validation = _stack(validation, "validation", architecture)
    identity = json.dumps(
        {
            "settings": asdict(settings),
            "architecture": architecture.as_dict(),
            "images": _digest(images),
            "validation": _digest(validation),
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = Autoencoder(architecture, settings.linear_start).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    steps = math.ceil(len(images) / settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps
    )
    history: list[dict[str, float]] = []
    saved = _load_checkpoint(checkpoint, identity) if checkpoint else None
    if saved:
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        history = json.loads(saved["history"])
    count, total_steps = len(images), steps * settings.epochs
    images, validation = images.to(device), validation.to(device)
    done_steps = steps * len(history)
    step(done_steps, total_steps)
    for epoch in range(len(history), settings.epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed * 100_003 + epoch))
        total = torch.zeros((), device=device, dtype=torch.float64 if device != "mps" else torch.float32)
        for indices in order.split(settings.batch):
            batch = in_channels(images[indices.to(device)])
            loss = functional.binary_cross_entropy_with_logits(network.logits(batch), batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach() * len(indices)
            done_steps += 1
            step(done_steps, total_steps)
        done = EpochReport(epoch + 1, settings.epochs, float(total) / count, validation_psnr_db(network, validation))
        if not math.isfinite(done.loss):
            raise TrainingError(
                f"training diverged in epoch {done.epoch}: the loss is {done.loss}; lower learning_rate"
                f" ({settings.learning_rate}) or enlarge batch ({settings.batch})"
            )
        history.append({"loss": done.loss, "validation_psnr_db": done.validation_psnr_db})
        if checkpoint:
            state = {
                "identity": identity,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "history": json.dumps(history),
            }
            with whole(checkpoint) as part:
                torch.save(state, part)
        report(done)
    record = {
        "source": source,
        "images": count,
        "settings": asdict(settings),
        "loss": "binary cross-entropy",
        "optimiser": "Adam, one-cycle learning rate",
        "history": history,
        "validation_psnr_db": history[-1]["validation_psnr_db"],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    return network.to("cpu"), record
