"""`ptychoscope reconstruct`: the object of a calibrated run at one or every exposure, conventionally or latently."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.calibration import software, stored_illumination
from app.combining import entries_of, joint
from app.deciding import candidates, choose, ranking
from app.errors import Interrupted, UsageError
from app.figures import hybrid_figure, reconstruction_figure
from app.latent import (
    Decoder,
    draw_posterior,
    estimator,
    numbers,
    on_object_grid,
    store_posterior,
)
from app.methods import conventional, hybrid, papers_best, papers_trials
from app.outputs import require_folder
from app.progress import Course
from app.request import Request
from app.task import Task, cleaned, field_of_view, lit_samples
from app.unfinished import image_left, spare_complete, warning_of
from recon.choosing import Ranked
from recon.combined import together
from recon.complexlatent import ComplexPosterior
from recon.dataset import Scan
from recon.decoders.package import load_package
from recon.device import pick_device
from recon.estimator import LatentEstimator
from recon.files.read import open_run
from recon.files.results import store_result
from recon.files.reuse import calibration_of, reused_illumination
from recon.hybrid import HYBRID
from recon.posterior import Posterior
from recon.reconstruct import (
    CONVENTIONAL,
    Reconstruction,
)
from recon.rehearsal import Rehearsal, rehearse
from recon.tilt import EmptyBeam, beam_tilt_rad, tilted


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
    task = Task(
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


def _posterior(task: Task, request: Request, course: Course) -> _Believed:
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


def _latent(task: Task, request: Request, course: Course) -> dict[str, Any]:
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


def _hybrid(task: Task, request: Request, course: Course) -> dict[str, Any]:
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


def _rehearsed(task: Task, members: int, found: Posterior, result: Reconstruction, course: Course) -> Rehearsal | None:
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


def _iterative(task: Task, request: Request, course: Course) -> dict[str, Any]:
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


_METHODS: dict[str, Callable[[Task, Request, Course], dict[str, Any]]] = {
    "latent": _latent,
    "hybrid": _hybrid,
    "paper": _iterative,
    "conventional": _iterative,
}
