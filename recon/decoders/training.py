"""Training of an autoencoder: Adam, binary cross-entropy, shuffled, checkpointed after every epoch."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recon.decoders.network import Architecture, Autoencoder


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: passes over the training images (the paper: 50; 27 dB takes 14 with this schedule).
        batch: images per step.
        learning_rate: peak of the one-cycle schedule.
        seed: of initialisation and shuffling; the same seed gives the same network on the same machine.
    """

    epochs: int = 16
    batch: int = 128
    learning_rate: float = 1.5e-3
    seed: int = 0


@dataclass(frozen=True)
class EpochReport:
    """What one finished epoch has shown: mean training loss (nats a pixel) and validation PSNR (dB)."""

    epoch: int
    epochs: int
    loss: float
    validation_psnr_db: float


def psnr_per_image(estimate: Tensor, truth: Tensor) -> Tensor:
    """Eq. 3 of the paper for each image of a stack (n, s, s); dB, peak value 1."""
    error = (estimate - truth).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


@torch.no_grad()
def validation_psnr_db(network: Autoencoder, images: Tensor, batch: int = 1000) -> float:
    """Mean PSNR of encoded and decoded images (n, s, s), dB."""
    values = [psnr_per_image(network(chunk.unsqueeze(1)).squeeze(1), chunk) for chunk in images.split(batch)]
    return float(torch.cat(values).mean())


def _load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    return state if state["identity"] == json.dumps(identity) else None


def train(
    images: Tensor,
    validation: Tensor,
    architecture: Architecture,
    settings: TrainingSettings,
    *,
    source: str,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Callable[[EpochReport], None] = lambda _: None,
) -> tuple[Autoencoder, dict[str, Any]]:
    """Train on images (n, s, s) in 0..1 and return the network with the record of its training.

    With `checkpoint`, the state after every epoch is kept there and an interrupted training with the same settings
    and source goes on from it; another training's checkpoint is left out of account and replaced.

    Raises:
        ValueError: the images do not have the architecture's size.
    """
    size = architecture.image_size
    if images.shape[1:] != (size, size):
        raise ValueError(f"training images are {tuple(images.shape[1:])}, the architecture takes {size} x {size}")
    identity = {"settings": asdict(settings), "architecture": architecture.as_dict(), "source": source, "n": len(images)}
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = Autoencoder(architecture).to(device)
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
    images, validation = images.to(device), validation.to(device)
    for epoch in range(len(history), settings.epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(settings.seed * 100_003 + epoch))
        total = 0.0
        for indices in order.split(settings.batch):
            batch = images[indices.to(device)].unsqueeze(1)
            loss = functional.binary_cross_entropy_with_logits(network.logits(batch), batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(indices)
        done = EpochReport(epoch + 1, settings.epochs, total / len(images), validation_psnr_db(network, validation))
        history.append({"loss": done.loss, "validation_psnr_db": done.validation_psnr_db})
        if checkpoint:
            state = {
                "identity": json.dumps(identity),
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "history": json.dumps(history),
            }
            part = checkpoint.with_name(checkpoint.name + ".part")
            torch.save(state, part)
            os.replace(part, checkpoint)
        report(done)
    record = {
        "source": source,
        "images": len(images),
        "settings": asdict(settings),
        "loss": "binary cross-entropy",
        "optimiser": "Adam, one-cycle learning rate",
        "history": history,
        "validation_psnr_db": history[-1]["validation_psnr_db"],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    return network.to("cpu"), record
