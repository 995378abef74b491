"""Which prior over the latents? Normal, mixtures of normals, and a normalising flow, by evidence and by what they gain.

python -m benchmarks.priors [--epochs 40] [--count 10] [--photons 30,100,300] [--record]

Evidence: mean log density, in nats, of the whitened latents of 10,000 digits that neither the decoder nor a prior was
fitted to. Gain: chains that begin at the posterior's draws (made under the shipped mixture, on the studies' small
scene) walk on under the mixture and under the flow, with the same random numbers; the PSNR of both means says what the
flow would gain at low dose without building it into the search. Modes that the draws do not hold are not found.

The flow is RealNVP (Dinh, Sohl-Dickstein & Bengio 2017): affine couplings, alternating halves after fixed random
rotations, trained on the class-free latents with early stopping on a tenth held out.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from app.studies.cases import Frames
from app.studies.objects import MNIST, load_objects
from app.studies.scene import FIELD_M, StudyScene
from app.studies.work import Assignment, Workshop
from benchmarks.report import append_rows, machine
from recon.decoders.companion import companion_path, load_companion, whitened_latents
from recon.decoders.images import load_mnist
from recon.decoders.mixture import Mixture, fit_mixture
from recon.decoders.package import find_package, load_package
from recon.decoders.whitening import Whitening
from recon.estimator import LatentEstimator
from recon.metrics import psnr_db
from recon.observation import Observation
from recon.scene import Scene

DECODER = "mnist"
SIZES = (1, 2, 4, 8, 16, 32)
"""Normals a class."""
COUPLINGS, WIDTH, BATCH, RATE = 8, 192, 512, 1e-3
MOVES = 400
"""Of each chain."""
PATIENCE = 6
"""Epochs without a better held-out density after which training ends."""
EVERYWHERE = np.ones((32, 32), bool)


class Flow(nn.Module):
    """Density of latents (n, d): affine couplings after fixed rotations, to a unit normal."""

    def __init__(self, size: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kept = size // 2
        self.rotations = nn.ParameterList(
            nn.Parameter(torch.linalg.qr(torch.randn(size, size, generator=generator))[0], requires_grad=False)
            for _ in range(COUPLINGS)
        )
        torch.manual_seed(seed)
        self.nets = nn.ModuleList()
        for _ in range(COUPLINGS):
            last = nn.Linear(WIDTH, 2 * (size - self.kept))
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.nets.append(
                nn.Sequential(nn.Linear(self.kept, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), last)
            )

    def log_density(self, zeta: Tensor) -> Tensor:
        """(n,) nats."""
        x, log_det = zeta, zeta.new_zeros(len(zeta))
        for rotation, net in zip(self.rotations, self.nets, strict=True):
            x = x @ rotation
            kept, moved = x[:, : self.kept], x[:, self.kept :]
            scale, shift = net(kept).chunk(2, 1)
            scale = 2 * torch.tanh(scale / 2)
            x = torch.cat((kept, moved * scale.exp() + shift), 1)
            log_det = log_det + scale.sum(1)
        return log_det - 0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def trained(zeta: Tensor, epochs: int, seed: int = 0) -> Flow:
    """The flow whose held-out density was highest."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(zeta), generator=generator)
    held, own = zeta[order[: len(zeta) // 10]], zeta[order[len(zeta) // 10 :]]
    flow = Flow(zeta.shape[1], seed)
    optimiser = torch.optim.Adam([p for p in flow.parameters() if p.requires_grad], lr=RATE, weight_decay=1e-5)
    best, kept, since = -math.inf, copy.deepcopy(flow.state_dict()), 0
    for epoch in range(epochs):
        for part in own[torch.randperm(len(own), generator=generator)].split(BATCH):
            optimiser.zero_grad()
            (-flow.log_density(part).mean()).backward()
            optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] *= 0.93
        with torch.no_grad():
            now = float(flow.log_density(held).mean())
        since = 0 if now > best else since + 1
        if now > best:
            best, kept = now, copy.deepcopy(flow.state_dict())
        print(f"flow: epoch {epoch + 1}, held out {now:.2f} nats", flush=True)
        if since >= PATIENCE:
            break
    flow.load_state_dict(kept)
    return flow.eval()


def nats(prior: Mixture | Flow, zeta: Tensor) -> float:
    """Mean log density."""
    with torch.no_grad():
        return float(torch.cat([prior.log_density(part) for part in zeta.split(2000)]).double().mean())


@torch.no_grad()
def walked(
    observation: Observation, scene: Scene, log_prior: Callable[[Tensor], Tensor], theta: Tensor, seed: int
) -> tuple[Tensor, float]:
    """(s, s) mean image of chains that begin at posterior draws (n, size), and the share of moves taken.

    Random walks in the draws' own covariance; the second half of the moves counts. The sketch draws.
    """
    generator = torch.Generator().manual_seed(seed)
    count, size = theta.shape
    centred = theta - theta.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / count + 1e-4 * torch.eye(size))

    def looked(at: Tensor) -> tuple[Tensor, Tensor]:
        images = scene.images(at)
        return observation.value(images) + log_prior(at), images

    length = 1.7 / math.sqrt(size)
    value, images = looked(theta)
    total, kept, taken = torch.zeros_like(images[0]), 0, 0.0
    for move in range(MOVES):
        tried = theta + length * torch.randn(count, size, generator=generator) @ factor.T
        new, drawn = looked(tried)
        better = torch.rand(count, generator=generator).log() < new - value
        theta = torch.where(better[:, None], tried, theta)
        value = torch.where(better, new, value)
        images = torch.where(better[:, None, None], drawn, images)
        taken += float(better.float().mean()) / MOVES
        if move >= MOVES // 2:
            total, kept = total + images.mean(0), kept + 1
    return total / kept, taken


def gains(flow: Flow, count: int, doses: list[float]) -> list[tuple[float, float, float, float]]:
    """For every dose: PSNR (32 x 32) of the mean under the shipped prior and under the flow, the standard error of
    their difference, and the share of moves taken."""
    scene = StudyScene.small(16)
    objects = {o.name: o for o in load_objects(MNIST, count)}
    shop = Workshop(Assignment(scene, objects, {}))
    estimator = LatentEstimator.build(shop.package(DECODER), shop.companion(DECODER), scene.light, FIELD_M)
    found = []
    for photons in doses:
        rows = []
        for obj in objects.values():
            frames = Frames(obj.name, obj.digest, "matched", "known", photons, 0.3, 16, 0, scene.digest)
            truth, data = shop.taken(frames)
            estimator.prepare(data)
            posterior = estimator.estimate(data)
            theta, observation = torch.from_numpy(posterior.theta), estimator.observe(data)
            means = [
                walked(observation, estimator.scene, prior, theta, 1)
                for prior in (estimator.scene.log_prior, flow.log_density)
            ]
            rows.append((*(psnr_db(mean.numpy(), truth.small, EVERYWHERE) for mean, _ in means), means[1][1]))
            print(f"{photons:g} photons {obj.name}: {rows[-1][0]:.2f} {rows[-1][1]:.2f} dB", flush=True)
        table = np.array(rows)
        change = table[:, 1] - table[:, 0]
        error = float(change.std(ddof=1) / math.sqrt(len(change)))
        found.append((float(table[:, 0].mean()), float(table[:, 1].mean()), error, float(table[:, 2].mean())))
        print("{:g} photons: {:.2f} dB, with the flow {:.2f} +- {:.2f}, {:.0%} taken".format(photons, *found[-1]))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--count", type=int, default=10, help="digits whose posteriors are walked in")
    parser.add_argument("--photons", default="30,100,300")
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    package = load_package(DECODER)
    shipped = load_companion(companion_path(find_package(DECODER)), package).prior
    sides = package.architecture.image_size
    train, test = (load_mnist(part, sides) for part in ("train", "test"))
    whitening = Whitening.of(package)
    latents = [
        whitened_latents(package, torch.from_numpy(part.images).float().view(-1, sides, sides), whitening=whitening)
        for part in (train, test)
    ]
    labels = torch.from_numpy(train.labels.astype(np.int64))
    densities: list[tuple[str, float, float]] = []
    for size in SIZES:
        begin = time.process_time()
        mixture = fit_mixture(latents[0], labels, size)
        densities.append((f"{size} a class", nats(mixture, latents[1]), time.process_time() - begin))
        print("mixture, {}: {:.2f} nats, {:.0f} core-s".format(*densities[-1]), flush=True)
    densities.append(("the shipped mixture", nats(shipped, latents[1]), 0.0))
    begin = time.process_time()
    flow = trained(latents[0], asked.epochs)
    densities.append((f"flow, {COUPLINGS} couplings of {WIDTH}", nats(flow, latents[1]), time.process_time() - begin))
    for row in densities[-2:]:
        print("{}: {:.2f} nats, {:.0f} core-s".format(*row), flush=True)
    doses = [float(text) for text in asked.photons.split(",")]
    changed = gains(flow, asked.count, doses)
    if asked.record:
        rows = [
            (f"{name}: mean log density of unseen digits", f"{value:.2f} nats", "-") for name, value, _ in densities
        ]
        rows += [
            (
                f"{photons:g} photons, {asked.count} digits: PSNR of chains under the shipped mixture and the flow",
                f"{ours:.2f} dB, {theirs:.2f} ({theirs - ours:+.2f} +- {error:.2f}); {share:.0%} of the moves taken",
                "a flow where it lowers the dose",
            )
            for photons, (ours, theirs, error, share) in zip(doses, changed, strict=True)
        ]
        append_rows("python -m benchmarks.priors", rows, machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
