"""The work of a dose study: simulate frames, estimate, score; on a CPU case by case, on a GPU in batches."""

from __future__ import annotations

import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.studies.cases import Case, Frames, Outcome
from app.studies.objects import Pose, StudyObject, Truth, drawn_on, make_truth
from app.studies.scene import FIELD_M, StudyScene
from app.studies.scores import Reference, Scores
from recon.ceiling import NODE_M, noise_free_fit, prior_mean
from recon.dataset import Ptychogram
from recon.decoders.companion import Companion, companion_path, load_companion
from recon.decoders.package import DecoderPackage, find_package, load_package
from recon.estimator import LatentEstimator
from recon.hybrid import reconstruct_hybrid
from recon.observation import BLOCK_M
from recon.paper import LitBlocks, PaperSettings, Placed, Summed, paper_fits
from recon.posterior import Posterior
from recon.reconstruct import Reconstruction, reconstruct_pixels
from recon.scene import FREE_POSE, Nuisances
from recon.simulated import exposed, intensities, posed

PAPER = PaperSettings()
NOISE, POSE = 1, 2
"""Streams of random numbers."""
KEPT, KEPT_BYTES = 2, 16e9
"""Intensities that a process keeps: an object's cases come one after another. Batches keep all of their objects, dose
after dose, within so much memory."""
REFERENCE_PHOTONS = 1e8
CROPPED_TO = 0.9995
"""Share of an open field's light in the window that free pixels are fitted to."""


@dataclass(frozen=True)
class Assignment:
    """What a process needs to know of a study beside its cases; it travels to other machines.

    Attributes:
        scene: the bench.
        objects: by name.
        references: by the objects' names; success is measured against them.
        device: where torch works.
        batch: objects that the paper's estimator takes at once.
        paper: its settings.
    """

    scene: StudyScene
    objects: dict[str, StudyObject]
    references: dict[str, Reference]
    device: str = "cpu"
    batch: int = 1
    paper: PaperSettings = PAPER


@dataclass(frozen=True)
class Estimate:
    """What a method found: object (M, M), image (32, 32), and what else it says."""

    obj: NDArray[np.float32]
    small: NDArray[np.float32]
    seconds: float
    said: dict[str, Any]


def object_word(name: str) -> int:
    """A number for an object's name, for seeds."""
    return zlib.crc32(name.encode())


def pose_of(frames: Frames) -> Pose:
    """Where the object of these frames lies."""
    if frames.pose == "known":
        return Pose.nominal()
    return Pose.random([frames.seed, object_word(frames.object), POSE])


class Workshop:
    """One process's tools: each is made when it is first needed, and kept."""

    def __init__(self, assignment: Assignment):
        self.job = assignment
        self.scene, self.device = assignment.scene, assignment.device
        self._kept: OrderedDict[tuple[str, str, str, int], tuple[Truth, Any]] = OrderedDict()
        self._packages: dict[str, DecoderPackage] = {}
        self._companions: dict[str, Companion] = {}
        self._means: dict[str, NDArray[np.float32]] = {}
        self._lit: dict[tuple[str, float], LitBlocks] = {}
        self._estimators: dict[tuple[str, str], LatentEstimator] = {}
        self._of: Frames | None = None
        self._posteriors: dict[str, tuple[Posterior, float]] = {}
        self._window: int | None = None

    def package(self, decoder: str) -> DecoderPackage:
        """A decoder on the device."""
        if decoder not in self._packages:
            self._packages[decoder] = load_package(decoder).to(self.device)
        return self._packages[decoder]

    def lit(self, decoder: str, node_m: float = BLOCK_M) -> LitBlocks:
        """Where a decoder's drawings send light, for one photon an exposure."""
        if (decoder, node_m) not in self._lit:
            light, positions = self.scene.light, self.scene.positions_m
            self._lit[decoder, node_m] = LitBlocks.of_decoder(self.package(decoder), light, positions, FIELD_M, node_m)
        return self._lit[decoder, node_m]

    def simulated(self, frames: Frames) -> tuple[Truth, Any]:
        """Truth and intensities (N, H, W) per photon of an object, kept while its cases last."""
        key = (frames.object, frames.truth, frames.pose, frames.seed if frames.pose == "free" else 0)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        pose = pose_of(frames)
        truth = make_truth(self.job.objects[frames.object], frames.truth, pose, self.scene)
        lit = truth.amplitude * np.float32(np.sqrt(pose.flux))
        self._kept[key] = truth, intensities(self.scene.light, self.scene.positions_m, lit, self.device)
        most = KEPT if self.job.batch == 1 else max(KEPT, int(KEPT_BYTES / self._kept[key][1].nbytes))
        while len(self._kept) > most:
            self._kept.popitem(last=False)
        return self._kept[key]

    def taken(self, frames: Frames) -> tuple[Truth, Ptychogram]:
        """Frames of one case: the same for every method, on every machine with the same kind of device."""
        truth, per_photon = self.simulated(frames)
        seed = [frames.seed, object_word(frames.object), *words(frames.photons), *words(frames.read_noise), NOISE]
        electrons = exposed(per_photon, frames.photons, frames.read_noise, np.array(seed, np.uint32))
        return truth, self.scene.ptychogram(electrons.cpu().numpy(), frames.photons, frames.read_noise, frames.object)

    def posterior(self, frames: Frames, data: Ptychogram, decoder: str) -> tuple[Posterior, float]:
        """This program's estimator, the one place where the study meets it; and its seconds.

        Those of the newest frames are kept.
        """
        pose = frames.pose
        if self._of != frames:
            self._of, self._posteriors = frames, {}
        if decoder in self._posteriors:
            return self._posteriors[decoder]
        if (decoder, pose) not in self._estimators:
            self._estimators[decoder, pose] = LatentEstimator.build(
                self.package(decoder),
                self.companion(decoder),
                self.scene.light,
                FIELD_M,
                nuisances=FREE_POSE if pose == "free" else Nuisances(),
                device=self.device,
            )
        estimator = self._estimators[decoder, pose]
        estimator.prepare(data)
        begin = time.perf_counter()
        found = estimator.estimate(data)
        seconds = time.perf_counter() - begin
        self._posteriors[decoder] = found, seconds
        return self._posteriors[decoder]

    def estimate_latent(self, frames: Frames, data: Ptychogram, decoder: str) -> Estimate:
        """The posterior mean."""
        found, seconds = self.posterior(frames, data, decoder)
        return self._drawn(found.mean, seconds, _said(found) | {"converged": found.converged})

    def estimate_hybrid(self, frames: Frames, data: Ptychogram, decoder: str) -> Estimate:
        """The posterior mean and what the light pays for beside it; both count in the seconds."""
        found, seconds = self.posterior(frames, data, decoder)
        window = self.pixel_window()
        begin = time.perf_counter()
        result = reconstruct_hybrid(data.crop((window, window)), self.scene.light, found, FIELD_M, device=self.device)
        seconds += time.perf_counter() - begin
        converged = found.converged and bool(result.converged)
        return self._free(result, seconds, _said(found) | {"converged": converged})

    def estimate_pixels(self, data: Ptychogram) -> Estimate:
        """Free pixels, on the part of the frames that light reaches."""
        window = self.pixel_window()
        begin = time.perf_counter()
        result = reconstruct_pixels(data.crop((window, window)), self.scene.light, device=self.device)
        return self._free(result, time.perf_counter() - begin, {"converged": result.converged})

    def _free(self, result: Reconstruction, seconds: float, said: dict[str, Any]) -> Estimate:
        obj = centred(np.abs(result.object), self.scene.size)
        return Estimate(obj, self.scene.scored(np.clip(obj, 0, 1)), seconds, said)

    def pixel_window(self) -> int:
        """Side of the centred window with nearly all light of an open field: no truth is asked."""
        if self._window is None:
            open_field = np.zeros((self.scene.size, self.scene.size), np.float32)
            half = round(FIELD_M / self.scene.pixel_m / 4)
            middle = slice(self.scene.size // 2 - half, self.scene.size // 2 + half)
            open_field[middle, middle] = 1.0
            light = intensities(self.scene.light, self.scene.positions_m, open_field, self.device).sum(0).cpu().numpy()
            frame = self.scene.frame
            for side in range(128, frame + 1, 32):
                inner = slice(frame // 2 - side // 2, frame // 2 + side // 2)
                if light[inner, inner].sum() >= CROPPED_TO * light.sum():
                    break
            self._window = side
        return self._window

    def estimate_paper(self, decoder: str, seen: Sequence[tuple[Frames, Summed]]) -> list[Estimate]:
        """The paper's estimator for several objects with the same photons and seed; it is told pose and flux."""
        frames = [frame for frame, _ in seen]
        begin = time.perf_counter()
        poses = [pose_of(frame) for frame in frames]
        free = frames[0].pose == "free"
        values, flux = np.stack([p.values for p in poses]), np.array([p.flux for p in poses])
        fits = paper_fits(
            self.lit(decoder).with_seconds(frames[0].photons),
            self.package(decoder),
            Summed.joined([summed for _, summed in seen]),
            replace(self.job.paper, seed=frames[0].seed),
            random_seeds=[(frame.seed << 32) + object_word(frame.object) for frame in frames],
            placed=Placed.build(values, flux, self.device) if free else None,
        )
        assert fits is not None
        seconds = (time.perf_counter() - begin) / len(fits)
        images = [posed(f.image, p.values, FIELD_M) if free else f.image for f, p in zip(fits, poses, strict=True)]
        return [self._drawn(image, seconds, {}) for image in images]

    def reference(self, obj: StudyObject, truth: str, decoder: str) -> Reference:
        """What success is measured against for one object, in the nominal pose."""
        wanted = make_truth(obj, truth, Pose.nominal(), self.scene)
        per_photon = intensities(self.scene.light, self.scene.positions_m, wanted.amplitude, self.device)
        package = self.package(decoder)
        companion = self.companion(decoder)
        lit = self.lit(decoder, NODE_M).with_seconds(REFERENCE_PHOTONS)
        if decoder not in self._means:
            self._means[decoder] = prior_mean(companion, package)
        images = (self._means[decoder], noise_free_fit(lit, per_photon, package, companion, wanted.small))
        mean, best = (self._scored(image, wanted) for image in images)
        return Reference(mean.psnr_db, best.psnr_db, mean.psnr32_db, best.psnr32_db)

    def companion(self, decoder: str) -> Companion:
        """A decoder's prior on the device; raises `DecoderError` where it has none."""
        if decoder not in self._companions:
            package = self.package(decoder)
            loaded = load_companion(companion_path(find_package(decoder)), package)
            self._companions[decoder] = loaded.to(self.device)
        return self._companions[decoder]

    def _scored(self, image: NDArray[np.float32], truth: Truth) -> Scores:
        drawn = self._drawn(image, 0.0, {})
        return Scores.of(drawn.obj, drawn.small, truth, self.scene)

    def _drawn(self, image: NDArray[np.float32], seconds: float, said: dict[str, Any]) -> Estimate:
        step = len(image) // 32
        small = image.reshape(32, step, 32, step).mean((1, 3))
        return Estimate(drawn_on(image, self.scene), small, seconds, said)


def _said(found: Posterior) -> dict[str, Any]:
    return {
        "verdict": found.verdict.word.value,
        "photons_counted": float(found.electrons),
        "sigma_mean": float(found.deviation.mean()),
    }


def centred(values: NDArray, size: int) -> NDArray:
    """A centred array (n, n) cut or padded with zeros to (size, size); index n//2 goes to size//2."""
    n = len(values)
    out = np.zeros((size, size), values.dtype)
    half = min(n, size) // 2
    here, there = n // 2, size // 2
    out[there - half : there + half, there - half : there + half] = values[
        here - half : here + half, here - half : here + half
    ]
    return out


def words(value: float) -> tuple[int, int]:
    """A number as two words of a seed."""
    low, high = np.array([value], np.float64).view(np.uint32)
    return int(low), int(high)


def by_frames(cases: Sequence[Case], batch: int = 1) -> list[list[Case]]:
    """Cases of the same frames together: object after object, or in batches dose after dose."""
    order = _by_object if batch == 1 else _by_dose
    return [list(group) for _, group in groupby(sorted(cases, key=order), key=order)]


def _by_object(case: Case) -> tuple[Any, ...]:
    frames = case.frames
    return (frames.object, frames.seed, frames.photons, frames.read_noise)


def _by_dose(case: Case) -> tuple[Any, ...]:
    frames = case.frames
    return (frames.read_noise, frames.seed, frames.photons, frames.object)


def work(shop: Workshop, cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Every case's outcome as it is found, in an order that costs little; results do not depend on it."""
    waiting: dict[tuple[str, float, float, int], list[tuple[Case, Truth, Summed]]] = {}
    for group in by_frames(cases, shop.job.batch):
        frames = group[0].frames
        truth, data = shop.taken(frames)
        for case in group:
            if case.method == "paper":
                queue = (case.decoder, frames.photons, frames.read_noise, frames.seed)
                waiting.setdefault(queue, []).append((case, truth, shop.lit(case.decoder).summed(data)))
                if len(waiting[queue]) == shop.job.batch:
                    yield from _paper(shop, waiting.pop(queue))
            elif case.method == "latent":
                yield case, _outcome(shop, case, truth, shop.estimate_latent(frames, data, case.decoder))
            elif case.method == "hybrid":
                yield case, _outcome(shop, case, truth, shop.estimate_hybrid(frames, data, case.decoder))
            else:
                yield case, _outcome(shop, case, truth, shop.estimate_pixels(data))
    for rest in waiting.values():
        yield from _paper(shop, rest)


def _paper(shop: Workshop, seen: list[tuple[Case, Truth, Summed]]) -> Iterator[tuple[Case, Outcome]]:
    found = shop.estimate_paper(seen[0][0].decoder, [(case.frames, summed) for case, _, summed in seen])
    for (case, truth, _), estimate in zip(seen, found, strict=True):
        yield case, _outcome(shop, case, truth, estimate)


def _outcome(shop: Workshop, case: Case, truth: Truth, estimate: Estimate) -> Outcome:
    scores = Scores.of(estimate.obj, estimate.small, truth, shop.scene)
    success = scores.success(shop.job.references[case.frames.object])
    return Outcome(scores.psnr_db, scores.psnr32_db, scores.dice, success, estimate.seconds, **estimate.said)
