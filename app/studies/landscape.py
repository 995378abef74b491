"""`ptychoscope study landscape`: the loss around an optimum, along two principal components (the paper's Fig. 6)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.calibration import stored_illumination
from app.errors import Interrupted, UsageError
from app.latent import POSES, Decoder, estimator
from app.outputs import require_folder
from app.progress import Course
from app.runs import entry_of_exposure
from app.studies.landscape_figure import maps_figure, paper_figure
from app.studies.objects import MNIST, Pose, load_object, make_truth
from app.studies.scene import FIELD_M, StudyScene
from app.task import lit_part
from app.unfinished import warning_of
from recon.basins import Shape, condition_number, shape_of
from recon.dataset import Ptychogram
from recon.device import pick_device
from recon.files.read import open_run
from recon.files.reuse import calibration_of, reused_illumination
from recon.files.whole import whole
from recon.landscape import Bench, Grid, View, curvature, find_optimum, free_axes, landscapes, views
from recon.likelihoods import LIKELIHOODS
from recon.nodeloss import NodeLoss, node_loss
from recon.simulated import exposed, intensities

UNITS = ("whitened", "paper")
CENTRES = ("shared", "own")
MOST_POINTS = 501
THUMBNAILS = 5
"""Images of the plane that are drawn each way."""
NOISE = 3
"""Stream of random numbers."""


@dataclass(frozen=True)
class LandscapeStudy:
    """What is asked for.

    Attributes:
        objects, index, truth: simulated: source of objects, which of it, "matched" or "mask".
        photons: simulated: per exposure.
        read_noise: simulated: electrons.
        positions: simulated: 16 or 96.
        seed: simulated: of the noise.
        run: a calibrated run instead.
        exposures_s: of the run; empty takes the longest and the shortest.
        pose: of the run's object, "free" (found at the brightest exposure) or "known".
        decoders: names or paths, the general one first.
        losses: of `recon.likelihoods`.
        centre: "shared", the optimum of Eq. 1 at the brightest exposure for all of a decoder's landscapes, so that they
            show the same images; or "own", each loss's and exposure's own optimum.
        units: in which the window is a square: "whitened" (standard deviations) or "paper" (latents as they are).
        reach: half of the window's side, in standard deviations (of the first component, for "paper").
        points: each way.
    """

    objects: str = MNIST
    index: int = 4
    truth: str = "matched"
    photons: tuple[float, ...] = (300.0, 1e6)
    read_noise: float = 0.3
    positions: int = 16
    seed: int = 0
    run: Path | None = None
    exposures_s: tuple[float, ...] = ()
    pose: str = "free"
    decoders: tuple[str, ...] = ("mnist", "mnist-4")
    losses: tuple[str, ...] = ("mixed", "poisson", "exact")
    centre: str = "shared"
    units: str = "whitened"
    reach: float = 3.0
    points: int = 101

    def checked(self) -> LandscapeStudy:
        """The same, without repetitions; raises `UsageError` naming the option, its value and what is allowed."""
        for option, value, allowed in (
            ("--units", self.units, UNITS),
            ("--centre", self.centre, CENTRES),
            ("--pose", self.pose, POSES),
            ("--truth", self.truth, ("matched", "mask")),
            *(("--losses", loss, tuple(LIKELIHOODS)) for loss in self.losses),
        ):
            if value not in allowed:
                raise UsageError(f"{option} {value!r}: choose from {', '.join(allowed)}")
        if not 11 <= self.points <= MOST_POINTS:
            raise UsageError(f"--points {self.points}: points each way go from 11 to {MOST_POINTS}")
        if not 0.01 <= self.reach <= 10:
            raise UsageError(f"--reach {self.reach:g}: standard deviations go from 0.01 to 10")
        if not 0.05 <= self.read_noise <= 100:
            raise UsageError(f"--read-noise {self.read_noise:g}: electrons go from 0.05 to 100")
        for photons in self.photons:
            if not 1 <= photons <= 1e9:
                raise UsageError(f"--photons {photons:g}: photons per exposure go from 1 to 1e9")
        if self.positions not in (16, 96):
            raise UsageError(f"--positions {self.positions}: the study uses 16 or 96 of the spiral's points")
        if self.index < 0:
            raise UsageError(f"--index {self.index}: objects are counted from 0")
        return replace(
            self,
            photons=tuple(sorted(set(self.photons), reverse=True)),
            exposures_s=tuple(sorted(set(self.exposures_s), reverse=True)),
            decoders=tuple(dict.fromkeys(self.decoders)),
            losses=tuple(dict.fromkeys(self.losses)),
        )


@dataclass(frozen=True)
class Taken:
    """Frames of the same object at several exposures, the brightest first.

    Attributes:
        name: of the object or run.
        exposures: (label, frames).
        bench: light, positions and pose.
    """

    name: str
    exposures: list[tuple[str, Ptychogram]]
    bench: Bench


@dataclass(frozen=True)
class Landscape:
    """One loss on one plane.

    Attributes:
        decoder, exposure, loss: of what.
        values: (n, m) nats, first component along rows.
        first, second: (n,), (m,) coordinates in standard deviations.
        spread: (2,) standard deviations in the decoder's own units: alpha = first * spread[0].
        shapes: measures by units, "whitened" and "paper".
        conditions: of the Gauss-Newton matrix over all free axes at the centre, by units.
        converged: whether the centre is an optimum of the loss that it was sought for.
        thumbnails: (k, k, s, s) images on the plane, first component along the first axis.
    """

    decoder: str
    exposure: str
    loss: str
    values: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    spread: NDArray[np.float64]
    shapes: dict[str, Shape]
    conditions: dict[str, float]
    converged: bool
    thumbnails: NDArray[np.float32] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        measures: dict[str, Any] = {}
        for units in UNITS:
            shape = self.shapes[units].as_dict()
            place = shape.pop("optimum")
            scale = self.spread if units == "paper" else np.ones(2)
            shape["optimum"] = [self.first[place[0]] * scale[0], self.second[place[1]] * scale[1]]
            measures[units] = shape | {"condition_all_axes": self.conditions[units]}
        return {
            "decoder": self.decoder,
            "exposure": self.exposure,
            "loss": self.loss,
            "converged": self.converged,
            "spread": self.spread.tolist(),
            **measures,
        }


def run_landscape_study(
    study: LandscapeStudy, out: Path, *, device: str = "auto", scene: StudyScene | None = None
) -> dict[str, Any]:
    """Landscapes, their measures and figures; `scene` replaces the paper's, for tests.

    Raises:
        UsageError: one line: an option, the object, the run.
        Interrupted: somebody stopped it; planes that were complete are kept and drawn.
    """
    begin = time.monotonic()
    study = study.checked()
    require_folder("study", out)
    place = pick_device(device)
    decoders = [Decoder.load(name) for name in study.decoders]
    for decoder in decoders:
        if free_axes(decoder.package) < 2:
            raise UsageError(f"--decoder {decoder.package.name}: draws along one axis only, a landscape needs two")
    out.mkdir(parents=True, exist_ok=True)
    found: list[Landscape] = []
    with Course() as course, course.interruptible():
        course.begin("frames", 1)
        taken = _recorded(study, decoders[0], place, course) if study.run else _simulated(study, scene, place)
        course.advance(1)
        looking = views(taken.bench, [(d.package.to(place), d.companion.to(place)) for d in decoders])
        tables: dict[tuple[int, str, str], NodeLoss] = {}
        for view in looking:
            if not course.stopped():
                found += _of_decoder(study, taken, view, tables, course)
    values: dict[str, Any] = {"landscapes": [], "out": str(out)}
    if found:
        _write(found, out)
        values = _report(study, taken, found, out)
    values |= {"seconds": time.monotonic() - begin}
    if course.stopped():
        drawn = "; nothing is drawn" if not found else f" and drawn in {out}"
        raise Interrupted(
            f"study: {len(found)} landscapes are complete{drawn}; the same command begins anew", values=values
        )
    return values


def _simulated(study: LandscapeStudy, scene: StudyScene | None, device: str) -> Taken:
    scene = scene or StudyScene(positions=study.positions)
    obj = load_object(study.objects, study.index)
    truth = make_truth(obj, study.truth, Pose.nominal(), scene)
    per_photon = intensities(scene.light, scene.positions_m, truth.amplitude, device)
    exposures = []
    for photons in study.photons:
        words = np.array([study.seed, round(math.log10(photons) * 1e6), NOISE], np.uint32)
        frames = exposed(per_photon, photons, study.read_noise, words).cpu().numpy()
        label = f"{photons:g} photons"
        exposures.append((label, scene.ptychogram(frames, photons, study.read_noise, obj.name)))
    bench = Bench(scene.light, scene.positions_m, FIELD_M, np.zeros(4))
    return Taken(f"{obj.name} ({study.truth}), read noise {study.read_noise:g} e-", exposures, bench)


def _recorded(study: LandscapeStudy, decoder: Decoder, device: str, course: Course) -> Taken:
    path = study.run
    assert path is not None
    with open_run(path) as run:
        if run.entries < 2:
            raise UsageError(f"{path}: holds no evaluation series; its plan has only a calibration scan")
        by_length = sorted(range(2, run.entries + 1), key=run.exposure_s, reverse=True)
        entries = [entry_of_exposure(run, e) for e in study.exposures_s] or [by_length[0], by_length[-1]]
        entries = list(dict.fromkeys(entries))
        field_m = run.profile["reconstruction"]["field_m"]
        data = [run.ptychogram(entry) for entry in entries]
        labels = [f"{run.exposure_s(entry) * 1e3:.4g} ms" for entry in entries]
    other = calibration_of(path, None)
    if warning := warning_of(path if other is None else other):
        course.say(warning)
    light, window = stored_illumination(path) if other is None else reused_illumination(path, entries[0], other)
    data = [lit_part(part, window) for part in data]
    light = replace(light, geometry=replace(light.geometry, shape=data[0].geometry.shape))
    if any(not np.array_equal(part.indices, data[0].indices) for part in data):
        raise UsageError(f"{path}: its exposures were not taken at the same points; name one with --exposure")
    pose, flux = np.zeros(4), 1.0
    if study.pose == "free":
        found = estimator(decoder, light, field_m, "free", device).estimate(data[0])
        pose, flux = found.pose.astype(np.float64), found.flux[0]
    positions = light.positions_of(data[0].indices)
    return Taken(path.name, list(zip(labels, data, strict=True)), Bench(light, positions, field_m, pose, flux))


def _axes(study: LandscapeStudy, spread: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates in standard deviations along both components."""
    line = np.linspace(-study.reach, study.reach, study.points)
    return line, line if study.units == "whitened" else line * (spread[0] / spread[1])


def _of_decoder(
    study: LandscapeStudy, taken: Taken, view: View, tables: dict[tuple[int, str, str], NodeLoss], course: Course
) -> list[Landscape]:
    """A decoder's landscapes; none of those on a plane that was not completed."""
    name = view.package.name
    keys = [(id(view.lit), label, loss) for label, _ in taken.exposures for loss in study.losses]
    course.begin(f"{name}: likelihoods", len(keys))
    frames = dict(taken.exposures)
    for done, key in enumerate(keys, start=1):
        if course.stopped():
            return []
        if key not in tables:
            tables[key] = node_loss(key[2], view.lit, frames[key[1]])
        course.advance(done)
    losses = [tables[key] for key in keys]
    planes: Iterator[tuple[NodeLoss, list[int]]]
    if study.centre == "own":
        planes = ((loss, [k]) for k, loss in enumerate(losses))
    else:
        first = study.losses.index("mixed") if "mixed" in study.losses else 0
        planes = iter([(losses[first], list(range(len(losses))))])
    found: list[Landscape] = []
    for sought, members in planes:
        part = _of_plane(study, view, sought, [losses[k] for k in members], [keys[k] for k in members], course)
        if part is None:
            break
        found += part
    return found


def _of_plane(
    study: LandscapeStudy, view: View, sought: NodeLoss, losses: list[NodeLoss],
    keys: Sequence[tuple[int, str, str]], course: Course,
) -> list[Landscape] | None:  # fmt: skip
    name = view.package.name
    if course.stopped():
        return None
    course.begin(f"{name}: optimum", 1)
    optimum = find_optimum(view, sought)
    course.advance(1, "" if optimum.converged else "still falling")
    spread = view.spread
    first, second = _axes(study, spread)
    grid = Grid(optimum.zeta, first, second)
    course.begin(f"{name}: landscape", len(first) * len(second))
    values = landscapes(view, grid, losses, lambda done, _: course.advance(done), course.stopped)
    if values is None:
        return None
    few = Grid(optimum.zeta, *(np.linspace(line[0], line[-1], THUMBNAILS) for line in (first, second)))
    pictures = view.images(few.points()).cpu().numpy()
    pictures = pictures.reshape(THUMBNAILS, THUMBNAILS, *pictures.shape[1:])
    found = []
    for loss, (_, exposure, word), surface in zip(losses, keys, values, strict=True):
        matrix = curvature(view, loss, optimum.zeta)
        unscaled = matrix / spread[:, None] / spread
        shapes = {
            "whitened": shape_of(surface, first, second),
            "paper": shape_of(surface, first * spread[0], second * spread[1]),
        }
        conditions = {"whitened": condition_number(matrix), "paper": condition_number(unscaled)}
        found.append(
            Landscape(
                name,
                exposure,
                word,
                surface,
                first,
                second,
                spread[:2],
                shapes,
                conditions,
                optimum.converged,
                pictures,
            )
        )
    return found


def _write(found: Sequence[Landscape], out: Path) -> None:
    """All grids in one file, with what each is in a JSON text beside them."""
    arrays: dict[str, Any] = {}
    for k, one in enumerate(found):
        arrays[f"values_{k}"] = one.values
        arrays[f"first_{k}"], arrays[f"second_{k}"] = one.first, one.second
        arrays[f"spread_{k}"] = one.spread
    facts = [{"decoder": one.decoder, "exposure": one.exposure, "loss": one.loss} for one in found]
    with whole(out / "landscapes.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, landscapes=np.array(json.dumps(facts)), **arrays)


def _report(study: LandscapeStudy, taken: Taken, found: Sequence[Landscape], out: Path) -> dict[str, Any]:
    table = text_table(found)
    (out / "table.txt").write_text(table, encoding="utf-8")
    heading = f"{taken.name}, {study.points} x {study.points} points"
    figures = [
        paper_figure(found, [label for label, _ in taken.exposures], heading, out / "landscape.png"),
        maps_figure(found, heading, out / "landscape-maps.png"),
    ]
    return {
        "landscapes": [one.summary() for one in found],
        "table": table,
        "out": str(out),
        "figure": str(figures[0]),
        "maps": str(figures[1]),
        "grids": str(out / "landscapes.npz"),
    }


def text_table(found: Sequence[Landscape]) -> str:
    """The measures, whitened units first."""
    lines = [
        f"{'decoder':<16}{'exposure':<16}{'loss':<9}{'units':<10}{'minima':>7}{'deep':>6}{'basin':>8}"
        f"{'condition':>11}{'all axes':>10}{'bent down':>11}{'plateau':>9}{'depth':>11}"
    ]
    for one in found:
        for units in UNITS:
            s = one.shapes[units]
            lines.append(
                f"{one.decoder:<16}{one.exposure:<16}{one.loss:<9}{units:<10}{s.minima:>7}{s.deep_minima:>6}"
                f"{100 * s.basin:>7.1f}%{s.condition:>11.3g}{one.conditions[units]:>10.3g}{100 * s.bent_down:>10.1f}%"
                f"{100 * s.plateau:>8.1f}%{s.depth:>11.4g}"
            )
    return "\n".join(lines) + "\n"
