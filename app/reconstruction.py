"""`ptychoscope reconstruct`: the object of a calibrated run at one or every exposure, conventionally or latently."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.calibration import software, stored_illumination
from app.combining import entries_of, joint
from app.deciding import candidates, choose, ranking
from app.drawing import time_words
from app.errors import Interrupted, UsageError
from app.figures import Seen, hybrid_figure, reconstruction_figure
from app.latent import (
    Decoder,
    draw_posterior,
    estimator,
    numbers,
    on_object_grid,
    store_posterior,
)
from app.outputs import require_folder
from app.progress import Course
from app.request import BOTH, STARTS, Request
from app.unfinished import image_left, spare_complete, warning_of
from app.yardstick import Yardstick
from recon.calibrate import Illumination, illuminated
from recon.choosing import Ranked
from recon.combined import together
from recon.complexlatent import ComplexPosterior
from recon.dataset import Ptychogram, Scan, Truth
from recon.decoders.package import DecoderPackage, load_package
from recon.device import pick_device
from recon.estimator import LatentEstimator
from recon.files.read import open_run
from recon.files.results import store_result
from recon.files.reuse import calibration_of, reused_illumination
from recon.hybrid import HYBRID, reconstruct_hybrid
from recon.imperfections import Imperfections
from recon.knownlight import grid_size
from recon.margins import Margins, by_margins
from recon.posterior import Posterior
from recon.reconstruct import (
    CONVENTIONAL,
    PixelSettings,
    Reconstruction,
    ReconstructionSettings,
    reconstruct_latent,
    reconstruct_pixels,
)
from recon.rehearsal import Rehearsal, rehearse
from recon.tilt import EmptyBeam, beam_tilt_rad, tilted

PAPER = ReconstructionSettings(epochs=40, batch=1)
"""The paper's estimator, one pattern a step; on simulated runs the loss has settled after 40 of its 100 epochs."""
PAPER_RATES = (0.3, 1.0)
"""Learning rates tried for the paper's estimator; the lower loss wins. Its range is 0.1 to 1."""


def papers_trials(request: Request) -> list[ReconstructionSettings]:
    """What the paper's estimator is to try: every start at every learning rate."""
    base = replace(PAPER, seed=request.seed or 0, loss=request.loss or PAPER.loss)
    base = replace(base, epochs=request.epochs or PAPER.epochs)
    starts = STARTS if request.start == BOTH else (request.start or PAPER.start,)
    rates = dict.fromkeys(request.learning_rates or PAPER_RATES)
    return [replace(base, learning_rate=rate, start=start) for start in starts for rate in rates]


def lit_part(data: Ptychogram, window: int) -> Ptychogram:
    """The frames' lit window that calibration found; what lies outside holds next to no light."""
    return data if window >= min(data.geometry.shape) else data.crop((window, window))


def cleaned(data: Ptychogram, window: int) -> tuple[Ptychogram, Margins]:
    """`lit_part` of frames whose offset and read noise agree with their own unlit margins, and what was done for it."""
    margins = by_margins(data, window)
    return lit_part(margins.data, window), margins


def papers_best(
    data: Ptychogram,
    light: Illumination,
    package: DecoderPackage,
    field_m: float,
    settings: Sequence[ReconstructionSettings],
    device: str,
    course: Course,
    name: str,
) -> Reconstruction:
    """The paper's estimator: several learning rates or starts, the one with the lowest final loss kept."""
    course.begin(name, sum(s.epochs for s in settings))
    results: list[Reconstruction] = []
    done = 0
    for setting in settings:

        def shown(epoch: int, _: int, loss: float, before: int = done) -> None:
            course.advance(before + epoch, f"loss {loss:.5f}")

        results.append(
            reconstruct_latent(
                data,
                light,
                package,
                field_m,
                setting,
                device=device,
                report=shown,
                stop=course.stopped,
            )
        )
        done += setting.epochs
        if course.stopped():
            break
    best = min(results, key=lambda r: float(r.loss[-1]))
    # What was not tried to its end might have been better.
    tried = len(results) == len(settings) and not any(result.interrupted for result in results)
    return replace(best, interrupted=not tried)


def conventional(
    data: Ptychogram,
    light: Illumination,
    settings: PixelSettings,
    device: str,
    course: Course,
    name: str,
) -> Reconstruction:
    """The conventional reconstruction with progress."""
    course.begin(name, 2 * settings.steps)
    return reconstruct_pixels(
        data,
        light,
        settings,
        device=device,
        report=lambda epoch, _, loss: course.advance(epoch, f"loss {loss:.5f}"),
        stop=course.stopped,
    )


def field_of_view(obj: NDArray, field_m: float, pixel_m: float) -> NDArray:
    """The middle of an object's grid that the decoder's image covers."""
    half = min(len(obj) // 2, math.ceil(field_m / 2 / pixel_m))
    middle = slice(len(obj) // 2 - half, len(obj) // 2 + half)
    return obj[middle, middle]


def store(
    path: Path,
    entry: int,
    result: Reconstruction,
    psnr: float | None,
    name: str = "",
    more: Mapping[str, Any] | None = None,
    beside: Mapping[str, NDArray] | None = None,
) -> None:
    """Put a result into the run, beside the exposure it belongs to; `more` numbers and arrays `beside` it with it."""
    arrays: dict[str, NDArray] = {"object": result.object, "loss": result.loss, **(beside or {})}
    if result.image is not None and result.latent is not None:
        arrays |= {"image": result.image, "latent": result.latent}
    settings = result.summary() | {"psnr_db": psnr, "software": software()} | dict(more or {})
    store_result(path, entry, arrays, settings, name=f"reconstruction_{name or result.method}")


@dataclass(frozen=True)
class _Task:
    """One exposure of a run, ready to be reconstructed.

    Attributes:
        data: all frames; parts: the same, one set an exposure; entry, exposure_s: of the shortest.
        imperfections: what is uncertain, or None.
        beam: a scan with the empty beam that belongs to the light, or without any.
    """

    path: Path
    entry: int
    exposure_s: float
    data: Ptychogram
    light: Illumination
    field_m: float
    decoder: str
    truth: Truth | None
    folder: Path
    device: str
    parts: tuple[Ptychogram, ...]
    imperfections: Imperfections | None
    beam: Scan

    @property
    def pixel_m(self) -> float:
        return self.light.geometry.pixel_size_m

    @property
    def size(self) -> int:
        """Side of the object's grid: room for all points of the calibration scan."""
        return grid_size(self.light)

    def psnr_db(self, obj: NDArray) -> float | None:
        if self.truth is None:
            return None
        return Yardstick.build(self.truth, self.light, self.data.indices, len(obj)).psnr_db(obj)

    def phase(self, obj: NDArray, tilt_rad: NDArray) -> dict[str, Any]:
        """What is known of a complex object's phase: the beam's tilt it was found under, and its scores."""
        known: dict[str, Any] = {"phase_psnr_db": None, "phase_error_rad": None}
        if self.truth is not None:
            known = dict(Yardstick.build(self.truth, self.light, self.data.indices, len(obj)).phase(obj))
        return known | {"beam_tilt_rad": [float(v) for v in tilt_rad]}

    def heading(self, method: str, psnr: float | None, phase: Mapping[str, Any] | None = None) -> str:
        """A figure's title: run, method, the exposures that are in it, and how near the truth the image is."""
        scored = "" if psnr is None else f", PSNR {psnr:.1f} dB"
        if phase and phase["phase_error_rad"] is not None:
            scored += f", phase {phase['phase_error_rad']:.2f} rad off"
        exposures = " and ".join(time_words(float(part.exposures_s[0])) for part in self.parts)
        if len(self.parts) > 2:
            first, last = (time_words(float(part.exposures_s[0])) for part in (self.parts[0], self.parts[-1]))
            exposures = f"{len(self.parts)} exposures from {first} to {last} together"
        elif len(self.parts) == 2:
            exposures += " together"
        return f"{self.path.name}: {method}, {exposures}, {len(self.data)} frames{scored}"

    def seen(self, expected: NDArray) -> Seen:
        """What the figure of an object on the camera's pitch shows beside it; (N, H, W) electrons `expected`."""
        return Seen(self.data.frames.sum(0), expected.sum(0), self.data.geometry.pixel_size_m, self.pixel_m)

    def figure(self, method: str) -> Path:
        return self.folder / f"{method}-{self.exposure_s * 1e3:.4g}ms.png"


def reconstruct_file(
    path: Path, request: Request, out: Path | None, device: str, calibration: Path | None = None
) -> dict[str, Any]:
    """Reconstruct one exposure of a calibrated run; returns the values of the command's JSON line.

    `calibration` is a run whose calibration is reused; a low-dose run knows its own.

    Raises:
        Interrupted: somebody stopped it; says what is kept. A part never takes the place of a complete result.
        UsageError: a choice, or a folder that cannot be written in the end.
        DatasetError: the run, or its calibration.
    """
    request.check()
    folder = out or path.with_name(f"{path.stem}-reconstruction")
    require_folder("reconstruct", folder)
    begin = time.monotonic()
    with open_run(path) as run:
        profile, truth = run.profile, run.truth()
        entries = entries_of(run, request.exposure)
        if len(entries) > 1 and (request.method != "latent" or candidates(request.decoder or "") is not None):
            raise UsageError(
                f"--exposure {request.exposure}: exposures are combined by the latent method with one decoder; name one"
            )
        entry = entries[0]
        frames, exposures = [run.ptychogram(k) for k in entries], [run.exposure_s(k) for k in entries]
    other = calibration_of(path, calibration)
    light, window = stored_illumination(path) if other is None else reused_illumination(path, entry, other)
    settings = profile["reconstruction"]
    clean = [cleaned(data, window) for data in frames]
    parts = tuple(lit for lit, _ in clean)
    task = _Task(
        path,
        entry,
        exposures[0],
        together(parts),
        light,
        settings["field_m"],
        settings["decoder"] if request.decoder is None else request.decoder,
        truth,
        folder,
        pick_device(device),
        parts,
        request.doubt.of(path, other, light, parts, profile["stage"]["repeatability_m"]),
        frames[0] if other is None or frames[0].empty is not None else bright_frames(other),
    )
    warning = warning_of(path if other is None else other)
    with Course() as course, course.interruptible():
        if warning:
            course.say(warning)
        for _, margins in clean:
            if margins.corrected:
                course.say(margins.reason)
        values = _METHODS[request.method](task, request, course)
    values = {
        "method": request.method,
        "calibration": str(path if other is None else other),
        "calibration_interrupted": bool(warning),
        "exposure_s": exposures[0],
        "exposures_s": exposures,
        **values,
        "sensor": clean[0][1].summary(),
        "seconds": time.monotonic() - begin,
    }
    if course.stopped():
        raise Interrupted(image_left(path, values["interrupted"]), values=values)
    return values


def bright_frames(path: Path) -> Scan:
    """A run's calibration scan with its empty beam."""
    with open_run(path) as run:
        return run.streamed(1)


@dataclass(frozen=True)
class _Believed:
    """A posterior, the decoder that was taken or chosen, and the ranking it was chosen from.

    Attributes:
        tilt_rad: (2,) of the beam, where the object has a phase.
        interrupted: whether decoders that were to be ranked are not.
    """

    posterior: Posterior
    decoder: Decoder
    estimator: LatentEstimator
    places: list[Ranked]
    tilt_rad: NDArray[np.float64]
    beside: dict[str, Any]
    interrupted: bool = False

    def words(self) -> str:
        """Which decoder, for a figure's title."""
        name = f"decoder {self.decoder.package.name}"
        return f"{name}, first of {len(self.places)} by evidence" if self.places else name

    def values(self) -> dict[str, Any]:
        """For the JSON line."""
        values = numbers(self.posterior) | {"decoder": self.decoder.package.name} | self.beside
        return values | ({"ranking": ranking(self.places)} if self.places else {})


def _posterior(task: _Task, request: Request, course: Course) -> _Believed:
    pose, names = request.pose or "free", candidates(task.decoder)
    places: list[Ranked] = []
    tilt = np.zeros(2)
    beside: dict[str, Any] = {}
    if names is None:
        decoder = Decoder.load(task.decoder, None if request.method == "latent" else 1, f"the {request.method} method")
        if decoder.note:
            course.say(decoder.note)
        course.begin("latent", 2)
        light = task.light
        if decoder.package.channels == 2:
            if task.imperfections is not None:
                raise UsageError(
                    f"--marginalise: decoder {task.decoder} draws a phase, positions are integrated out of amplitudes "
                    "only; leave it out or name another decoder"
                )
            tilt = beam_tilt_rad(light, EmptyBeam.of(task.beam))
            light = tilted(light, tilt)
        estimate = estimator(decoder, light, task.field_m, pose, task.device)
        if len(task.parts) == 1:
            estimate.prepare(task.data)
        course.advance(1, "prepared")
        found, beside = joint(estimate, task.parts, task.imperfections)
        course.advance(2, found.verdict.word.value)
    else:
        decoder, estimate, places = choose(names, task.data, task.light, task.field_m, pose, task.device, course)
        found = places[0].posterior
    return _Believed(found, decoder, estimate, places, tilt, beside, len(places) < len(names or ()))


def _latent(task: _Task, request: Request, course: Course) -> dict[str, Any]:
    believed = _posterior(task, request, course)
    found = believed.posterior
    psnr = task.psnr_db(on_object_grid(found.mean, task.field_m, task.size, task.pixel_m))
    phase: dict[str, Any] = {}
    if isinstance(found, ComplexPosterior):
        obj = on_object_grid(found.transmission, task.field_m, task.size, task.pixel_m)
        phase = task.phase(obj, believed.tilt_rad)
    exposures = [float(part.exposures_s[0]) for part in task.parts]
    name = "latent" if len(exposures) == 1 else "latent_combined"
    spare_complete(task.path, task.entry, name, believed.interrupted)
    more = believed.beside | phase | {"exposures_s": exposures, "interrupted": believed.interrupted}
    store_posterior(task.path, task.entry, found, believed.decoder, psnr, name, more)
    figure = draw_posterior(
        found,
        task.data,
        believed.estimator.expected(task.data, found.transmission),
        task.field_m,
        lit_samples(task.light, task.data, task.field_m, len(found.mean)),
        task.heading(f"latent, {believed.words()}", psnr, phase),
        task.figure(name.replace("_", "-")),
    )
    return believed.values() | {
        "psnr_db": psnr,
        **phase,
        "interrupted": believed.interrupted,
        "figure": str(figure),
    }


def hybrid(
    data: Ptychogram, light: Illumination, found: Posterior, field_m: float, device: str, course: Course, name: str
) -> Reconstruction:
    """Decoder and free pixels, with progress."""
    course.begin(name, 2 * HYBRID.steps)
    return reconstruct_hybrid(
        data,
        light,
        found,
        field_m,
        device=device,
        report=lambda epoch, _, loss: course.advance(epoch, f"loss {loss:.5f}"),
        stop=course.stopped,
    )


def _hybrid(task: _Task, request: Request, course: Course) -> dict[str, Any]:
    believed = _posterior(task, request, course)
    found = believed.posterior
    result = hybrid(task.data, task.light, found, task.field_m, task.device, course, "hybrid")
    latent = on_object_grid(found.mean, task.field_m, task.size, task.pixel_m)
    psnr = task.psnr_db(result.object)
    bars = None if request.rehearsals is None else _rehearsed(task, request.rehearsals, found, result, course)
    beside = {} if bars is None else {"deviation": bars.deviation}
    rehearsed = 0 if bars is None else bars.members
    interrupted = result.interrupted or believed.interrupted or rehearsed < (request.rehearsals or 0)
    spare_complete(task.path, task.entry, request.method, interrupted)
    more = ({} if bars is None else bars.summary()) | {"interrupted": interrupted}
    store(task.path, task.entry, result, psnr, request.method, more, beside)
    figure = hybrid_figure(
        task.seen(result.expected),
        field_of_view(latent, task.field_m, task.pixel_m),
        field_of_view(result.object.real, task.field_m, task.pixel_m),
        None if bars is None else field_of_view(bars.deviation, task.field_m, task.pixel_m),
        task.heading(f"{request.method}, {believed.words()}", psnr),
        task.figure(request.method),
    )
    return believed.values() | {
        "psnr_db": psnr,
        "psnr_latent_db": task.psnr_db(latent),
        "converged": found.converged and bool(result.converged),
        "residual": result.residual,
        "strength": HYBRID.kappa,
        "interrupted": interrupted,
        **({} if bars is None else bars.summary()),
        "figure": str(figure),
    }


def _rehearsed(task: _Task, members: int, found: Posterior, result: Reconstruction, course: Course) -> Rehearsal | None:
    """Error bars of a hybrid image; None where they were interrupted before there was anything."""
    course.begin("rehearsals", members)
    if course.stopped():
        return None
    return rehearse(
        task.data,
        task.light,
        found,
        task.field_m,
        result,
        members,
        device=task.device,
        report=lambda done, _: course.advance(done),
        stop=course.stopped,
    )


def _iterative(task: _Task, request: Request, course: Course) -> dict[str, Any]:
    package = None
    light, tilt = task.light, np.zeros(2)
    complex_pixels = request.method == "conventional" and request.positivity is False
    if request.method == "paper":
        package = load_package(task.decoder, asker="the paper's method")
        trials = papers_trials(request)
        result = papers_best(task.data, task.light, package, task.field_m, trials, task.device, course, "paper")
    else:
        settings = replace(CONVENTIONAL, loss=request.loss, positivity=request.positivity is not False)
        settings = replace(settings, seed=request.seed or 0)
        if request.epochs is not None:
            settings = replace(settings, steps=request.epochs)
        if complex_pixels and task.beam.empty is None:
            course.say("no empty beam: a tilt of the phase may be the beam's")
        elif complex_pixels:
            tilt = beam_tilt_rad(light, EmptyBeam.of(task.beam))
            light = tilted(light, tilt)
        result = conventional(task.data, light, settings, task.device, course, "conventional")
    psnr = task.psnr_db(result.object)
    phase = task.phase(result.object, tilt) if complex_pixels else {}
    spare_complete(task.path, task.entry, request.method, result.interrupted)
    store(task.path, task.entry, result, psnr, request.method, phase)
    named = request.method if package is None else f"the paper's estimator, decoder {package.name}"
    figure = reconstruction_figure(
        task.seen(result.expected),
        field_of_view(result.object, task.field_m, task.pixel_m),
        result.loss,
        result.level_steps,
        task.heading(named, psnr, phase),
        task.figure(request.method),
        phase=complex_pixels,
    )
    return {
        "decoder": None if package is None else package.name,
        "psnr_db": psnr,
        **phase,
        "loss": float(result.loss[-1]),
        "epochs": len(result.loss),
        "converged": result.converged,
        "strength": getattr(result.settings, "kappa", None),
        "learning_rate": getattr(result.settings, "learning_rate", None),
        "start": getattr(result.settings, "start", None),
        "interrupted": result.interrupted,
        "figure": str(figure),
    }


_METHODS: dict[str, Callable[[_Task, Request, Course], dict[str, Any]]] = {
    "latent": _latent,
    "hybrid": _hybrid,
    "paper": _iterative,
    "conventional": _iterative,
}


def lit_samples(light: Illumination, data: Ptychogram, field_m: float, samples: int) -> NDArray[np.float32]:
    """(samples, samples) share of each pixel of the decoder's image that the frames' light reached."""
    pixel = light.geometry.pixel_size_m
    size = 2 * math.ceil(field_m / pixel / 2) + 2
    lit = illuminated(light.probe, light.positions_of(data.indices) / pixel, max(size, grid_size(light)))
    axis = ((np.arange(samples) + 0.5) / samples - 0.5) * field_m / pixel + len(lit) // 2
    grid = np.meshgrid(axis, axis, indexing="ij")
    shown: NDArray[np.float32] = ndimage.map_coordinates(lit.astype(np.float32), grid, order=1)
    return shown
