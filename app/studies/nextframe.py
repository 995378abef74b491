"""What a study of the next frame asks, and its work: objects taken frame by frame, in several orders of the points."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import UsageError
from app.studies.objects import MNIST, Pose, StudyObject, Truth, make_truth
from app.studies.scene import FIELD_M, POINTS, StudyScene
from app.studies.scores import EVERYWHERE
from app.studies.work import NOISE, object_word, words
from recon.dataset import Ptychogram
from recon.decoders.companion import companion_path, load_companion
from recon.decoders.package import find_package, load_package
from recon.estimator import LatentEstimator
from recon.metrics import psnr_db
from recon.nextframe import DRAWS, Candidates, Wish
from recon.prepared import Prepared
from recon.simulated import exposed, intensities
from recon.tracker import Tracker

ORDERS = ("spiral", "random", "prior", "posterior", "deviation")
"""Every 6th point of the spiral, pass after pass; any; what is best for the prior's draws, known before the scan; what
the posterior says tells most; what it says narrows the image most."""
SPIRAL = 6
CANDIDATES = (16, 48, 96)
VERSION = 1
"""Counted up when results change."""


@dataclass(frozen=True)
class NextStudy:
    """What is asked for.

    Attributes:
        objects: `mnist:test`, a stack or a folder.
        count: objects, the first of the source; None takes all.
        photons: in one frame.
        frames: of each object.
        candidates: points that a frame may be taken at, evenly spaced along the spiral; it looks at every 6th of 96.
        read_noise: electrons.
        truth: "matched" or "mask".
        orders: of `ORDERS`.
        sigma: the target: recovered, with a mean deviation of at most this.
        decoder: name or path of a package.
        seeds: scans of each object.
    """

    objects: str = MNIST
    count: int | None = 8
    photons: float = 300.0
    frames: int = 16
    candidates: int = 48
    read_noise: float = 0.3
    truth: str = "matched"
    orders: tuple[str, ...] = ("spiral", "random", "prior", "posterior")
    sigma: float = 0.1
    decoder: str = "mnist"
    seeds: int = 1

    def checked(self) -> NextStudy:
        """The same; raises `UsageError` naming the option, its value and what is allowed."""
        for order in self.orders:
            if order not in ORDERS:
                raise UsageError(f"--orders {order!r}: choose from {', '.join(ORDERS)}")
        if self.truth not in ("matched", "mask"):
            raise UsageError(f"--truth {self.truth!r}: choose from matched, mask")
        if self.candidates not in CANDIDATES:
            raise UsageError(f"--candidates {self.candidates}: choose from {', '.join(map(str, CANDIDATES))}")
        if not 1 <= self.photons <= 1e6:
            raise UsageError(f"--photons {self.photons:g}: photons per frame go from 1 to 1e+06")
        if not 0.1 <= self.read_noise <= 20:
            raise UsageError(f"--read-noise {self.read_noise:g}: electrons go from 0.1 to 20")
        if "random" in self.orders and self.frames > self.candidates:
            raise UsageError(f"--frames {self.frames}: a random order has {self.candidates} points; ask for fewer")
        if not 0 < self.sigma < 1:
            raise UsageError(f"--sigma {self.sigma:g}: a mean deviation of amplitude lies between 0 and 1")
        return self

    def cases(self, objects: Sequence[StudyObject], scene: StudyScene, decoder_sha256: str) -> list[NextCase]:
        """All of them, an object's together."""
        return [
            NextCase(
                o.name, o.digest, order, seed, self.photons, self.frames, self.candidates, self.read_noise, self.truth,
                decoder_sha256, scene.digest,
            )
            for o in objects
            for seed in range(self.seeds)
            for order in dict.fromkeys(self.orders)
        ]  # fmt: skip


@dataclass(frozen=True)
class NextCase:
    """One object, taken in one order; see `NextStudy`."""

    object: str
    image: str
    order: str
    seed: int
    photons: float
    frames: int
    candidates: int
    read_noise: float
    truth: str
    decoder_sha256: str
    scene: str

    @property
    def key(self) -> str:
        """Twenty hex digits of all settings."""
        facts = asdict(self) | {"version": VERSION}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Walk:
    """How a case went, a number for every frame.

    Attributes:
        points: where it was taken.
        psnr32_db: of the mean image on the 32 x 32 grid, with the frames so far.
        sigma: mean standard deviation of its pixels.
        recovered: whether that is the verdict.
        success: probability of success, by the posterior itself.
        choosing_s: CPU seconds of choosing the points.
        estimating_s: of following them.
    """

    points: list[int]
    psnr32_db: list[float]
    sigma: list[float]
    recovered: list[bool]
    success: list[float]
    choosing_s: float
    estimating_s: float


@dataclass(frozen=True)
class NextAssignment:
    """What a process needs to know beside its cases."""

    scene: StudyScene
    objects: dict[str, StudyObject]
    decoder: str
    device: str = "cpu"


class NextShop:
    """One process's tools: each is made when it is first needed, and kept."""

    def __init__(self, job: NextAssignment):
        self.job, self.scene = job, job.scene
        package = load_package(job.decoder).to(job.device)
        companion = load_companion(companion_path(find_package(job.decoder)), package)
        self.estimator = LatentEstimator.build(package, companion, self.scene.light, FIELD_M, device=job.device)
        self._plan: tuple[object, Prepared, Candidates] | None = None
        self._object: tuple[object, Truth, dict[int, Any]] | None = None

    def walk(self, case: NextCase) -> Walk:
        """Take an object in one order."""
        plan, candidates = self._planned(case)
        tracker = Tracker(self.estimator, plan)
        truth, _ = self._seen(case)
        known = [point for point, _ in plan.points]
        exposure = np.array([case.photons])
        cost = np.full((len(known), 1), case.photons)
        draws: Any = self.estimator.bank.images[:DRAWS]
        begin = time.process_time()
        fixed = self._fixed(case, known, candidates)
        choosing, estimating = time.process_time() - begin, 0.0
        walk = Walk([], [], [], [], [], 0.0, 0.0)
        for number in range(case.frames):
            begin = time.process_time()
            if fixed is None:
                wish = Wish.DEVIATION if case.order == "deviation" else Wish.INFORMATION
                point = known[candidates.worth(draws, exposure).best(wish, cost)[0]]
            else:
                point = fixed[number]
            chosen = time.process_time()
            data = self._frame(case, point, walk.points.count(point))
            taken = time.process_time()
            found = tracker.add(data)
            choosing, estimating = choosing + chosen - begin, estimating + time.process_time() - taken
            draws = found.samples
            walk.points.append(point)
            walk.psnr32_db.append(psnr_db(_small(found.mean), truth.small, EVERYWHERE))
            walk.sigma.append(float(found.deviation.mean()))
            walk.recovered.append(found.verdict.word.value == "recovered")
            walk.success.append(found.verdict.success)
        return Walk(
            walk.points, walk.psnr32_db, walk.sigma, walk.recovered, walk.success, choosing, estimating
        )  # fmt: skip

    def _fixed(self, case: NextCase, known: list[int], candidates: Candidates) -> list[int] | None:
        """The points of an order that is known before the first frame; None: the frames decide."""
        if case.order == "spiral":
            points = range(0, POINTS, SPIRAL)
            return [points[k % len(points)] for k in range(case.frames)]
        if case.order == "random":
            rng = np.random.default_rng([case.seed, object_word(case.object)])
            return [known[k] for k in rng.permutation(len(known))[: case.frames]]
        if case.order == "prior":
            clouds = candidates.clouds(self.estimator.bank.images[:DRAWS], np.array([case.photons]))
            return [known[k] for k in clouds.order(case.frames)]
        return None

    def _planned(self, case: NextCase) -> tuple[Prepared, Candidates]:
        """What frames at all points need: minutes at many points, the same for all objects."""
        key = (case.photons, case.read_noise, case.candidates)
        if self._plan is None or self._plan[0] != key:
            points = np.arange(0, POINTS, POINTS // case.candidates)
            shape = self.scene.light.geometry.shape
            variance, mask = np.full(shape, case.read_noise**2, np.float32), np.ones(shape, bool)
            plan = self.estimator.ready(points, np.full(len(points), case.photons), variance, mask)
            found = Candidates.build(plan.operator, plan.light, variance, mask, self.scene.pixel_m)
            self._plan = key, plan, found
        return self._plan[1], self._plan[2]

    def _seen(self, case: NextCase) -> tuple[Truth, dict[int, Any]]:
        """An object's truth, and its intensities (H, W) per photon at the points that were asked for."""
        key = (case.object, case.truth)
        if self._object is None or self._object[0] != key:
            truth = make_truth(self.job.objects[case.object], case.truth, Pose.nominal(), self.scene)
            self._object = key, truth, {}
        return self._object[1], self._object[2]

    def _frame(self, case: NextCase, point: int, visit: int) -> Ptychogram:
        """One frame: at the same point, for the same time, it is the same in every order."""
        truth, light = self._seen(case)
        place = self.scene.light.positions_m[[point]]
        if point not in light:
            light[point] = intensities(self.scene.light, place, truth.amplitude, self.job.device)
        seed = [case.seed, object_word(case.object), point, visit, *words(case.photons), *words(case.read_noise), NOISE]
        frames = exposed(light[point], case.photons, case.read_noise, np.array(seed, np.uint32))
        shape = self.scene.light.geometry.shape
        return Ptychogram(
            frames=frames.cpu().numpy(),
            dark_variance=np.full(shape, case.read_noise**2, np.float32),
            mask=np.ones(shape, bool),
            positions_m=place,
            indices=np.array([point]),
            exposures_s=np.array([case.photons]),
            geometry=self.scene.light.geometry,
            name=case.object,
        )


def _small(image: NDArray[np.float32]) -> NDArray[np.float32]:
    step = len(image) // 32
    small: NDArray[np.float32] = image.reshape(32, step, 32, step).mean((1, 3))
    return small


_shop: tuple[NextAssignment, NextShop] | None = None


def walks(assignment: NextAssignment, cases: Sequence[NextCase]) -> Iterator[tuple[NextCase, Walk]]:
    """Every case as it is finished, with this process's tools, which it keeps."""
    global _shop
    if _shop is None or _shop[0] is not assignment:
        _shop = assignment, NextShop(assignment)
    for case in cases:
        yield case, _shop[1].walk(case)
