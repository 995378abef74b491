"""`ptychoscope demo`: the paper's experiment on the simulated bench, from the first dark frame to a figure."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from app import calibration as calibrating
from app.acquire.command import run_scan
from app.drawing import count_words, time_words
from app.errors import Interrupted, UsageError
from app.figures import DoseColumn, dose_figure
from app.latent import Decoder, estimator, on_object_grid, store_posterior
from app.methods import PAPER, conventional, hybrid, papers_best
from app.outputs import require_folder
from app.profile import Profile, load_profile
from app.progress import Course
from app.reconstruction import store
from app.stopping import Interrupt
from app.task import field_of_view, lit_part
from app.yardstick import Yardstick
from recon.calibrate import CalibrationSettings, Illumination
from recon.decoders.package import DecoderPackage
from recon.device import pick_device
from recon.files.read import open_run
from recon.files.results import load_result, store_result
from recon.metrics import dice, success_db
from recon.reconstruct import CONVENTIONAL, draw_latent, fit_image
from recon.residuals import residuals

FIGURE, REPORT, CALIBRATION_FIGURE = "demo.png", "report.json", "calibration.png"
MARK = "demo"
"""Result by which a run is known as a demo's, which the next one may replace."""
DEMO_PAPER_RATE = 1.0
"""The learning rate of the paper's estimator here, the upper end of its range."""
STARTS = 8
"""Draws of one exposure's posterior that the next one starts from, beside its own."""
ROWS = ("conventional", "latent, the paper's", "latent, posterior mean", "hybrid")
"""Rows of the figure, in the order of its columns' images."""


@dataclass(frozen=True)
class ExposureScore:
    """One line of the demo's table; PSNR over the lit mask, `recognisable` by the definition of success."""

    exposure_s: float
    photons_per_exposure: float
    electrons_per_frame: float
    psnr_latent_db: float
    psnr_hybrid_db: float
    psnr_paper_db: float
    psnr_conventional_db: float
    counting: str
    verdict: str
    sigma_mean: float
    recognisable: bool


def run_demo(
    profile_name: str, seed: int, sample: str | None, out: Path, device: str, decoder: str | None
) -> dict[str, Any]:
    """Scan, calibrate, reconstruct at every exposure; write run, report and figure into `out`.

    Returns the values of the command's JSON line. An earlier demo in `out` is replaced once the new one's scan is
    complete, anything else is left alone. A scan that was interrupted is gone on with.

    Raises:
        UsageError: the profile is not simulated or has no evaluation series, or `out` holds a run of something else.
        Interrupted: somebody stopped it; says what is kept, and how to go on.
    """
    require_folder("demo", out)
    begin = time.monotonic()
    profile = load_profile(profile_name)
    if not profile.simulated:
        raise UsageError(f"demo: profile {profile_name!r} drives real devices; use scan, calibrate and reconstruct")
    if not profile.scan.evaluation_positions:
        raise UsageError(f"demo: profile {profile_name!r} has no evaluation series")
    device = pick_device(device)
    known = Decoder.load(profile.reconstruction.decoder if decoder is None else decoder, asker="demo")
    package = known.package
    path, fresh = out / "run.h5", out / "run-new.h5"
    if path.exists() and not (out / FIGURE).exists() and load_result(path, 1, MARK) is None:
        raise UsageError(f"demo: {path} is not a demo's run; choose another --out, or move it away")
    _scan(profile, profile_name, seed, sample, fresh)
    store_result(fresh, 1, {}, {"profile": profile_name, "seed": seed}, MARK)
    fresh.replace(path)
    # They show the run that was there before.
    for name in (FIGURE, REPORT, CALIBRATION_FIGURE):
        (out / name).unlink(missing_ok=True)

    with open_run(path) as run:
        data, truth, entries, visits = run.ptychogram(1), run.truth(), run.entries, run.visits(1)
        diameter = run.illumination_m
    if truth is None:
        raise UsageError(f"{path}: a simulated run without its truth cannot be scored")
    field = profile.reconstruction.field_m
    with Course() as course:
        settings = CalibrationSettings(
            probe_diameter_m=diameter,
            position_prior_m=max(profile.stage.repeatability_m, data.geometry.pixel_size_m / 10),
            seed=seed,
        )
        calibration = calibrating.calibrate_data(data, settings, device, course)
        if calibration.interrupted:
            raise Interrupted(
                f"demo: in the calibration; the scan is kept in {path}, go on with `ptychoscope calibrate "
                f"{shlex.quote(str(path))}`, or give the same command again, which begins anew"
            )
        calibrating.store(path, calibration, visits=visits)
        left = residuals(data, calibration, device)
        calibrating.draw(calibration, data, left, out / CALIBRATION_FIGURE)
        errors = calibrating.score(calibration, truth)
        course.say(
            f"calibration: distance off by {errors.distance_error_m * 1e6:+.0f} um, positions by "
            f"{errors.position_rms_px:.2f} px rms, probe by {errors.probe_error * 100:.1f} %"
        )
        light = calibration.illumination
        columns: list[DoseColumn] = []
        scores: list[ExposureScore] = []
        yardstick: Yardstick | None = None
        threshold = baseline = ceiling = float("nan")
        if known.note:
            course.say(known.note)
        estimate = estimator(known, light, field, device=device)
        starts: NDArray | None = None
        with course.interruptible():
            for entry in range(2, entries + 1):
                with open_run(path) as run:
                    frames = lit_part(run.ptychogram(entry), calibration.window)
                    exposure = run.exposure_s(entry)
                name = f"{exposure * 1e3:.4g} ms"
                course.begin(f"latent, {name}", 1)
                # Each brighter exposure also looks where the one before has ended.
                posterior = estimate.estimate(frames, starts)
                starts = posterior.theta[:STARTS]
                course.advance(1, posterior.verdict.word.value)
                # One of the paper's rates: `reconstruct --method paper` tries more, the demo has to end in minutes.
                trials = [replace(PAPER, learning_rate=DEMO_PAPER_RATE, seed=seed)]
                paper = papers_best(frames, light, package, field, trials, device, course, f"the paper's, {name}")
                pixels = conventional(
                    frames, light, replace(CONVENTIONAL, seed=seed), device, course, f"conventional, {name}"
                )
                both = hybrid(frames, light, posterior, field, device, course, f"hybrid, {name}")
                if yardstick is None:
                    yardstick = Yardstick.build(truth, light, frames.indices, len(pixels.object))
                    baseline, ceiling = _references(yardstick, package, light.geometry.pixel_size_m, field)
                    threshold = success_db(baseline, ceiling)
                latent = on_object_grid(posterior.mean, field, len(pixels.object), light.geometry.pixel_size_m)
                latent_db = yardstick.psnr_db(latent)
                score = ExposureScore(
                    exposure_s=exposure,
                    photons_per_exposure=profile.light.photons_per_second * exposure,
                    electrons_per_frame=posterior.electrons / len(frames),
                    psnr_latent_db=latent_db,
                    psnr_hybrid_db=yardstick.psnr_db(both.object),
                    psnr_paper_db=yardstick.psnr_db(paper.object),
                    psnr_conventional_db=yardstick.psnr_db(pixels.object),
                    counting=posterior.counting,
                    verdict=posterior.verdict.word.value,
                    sigma_mean=float(posterior.deviation.mean()),
                    recognisable=latent_db >= threshold and dice(latent, yardstick.amplitude, yardstick.lit) >= 0.8,
                )
                scores.append(score)
                store_posterior(path, entry, posterior, known, score.psnr_latent_db, "latent")
                store(path, entry, both, score.psnr_hybrid_db)
                store(path, entry, paper, score.psnr_paper_db, "paper")
                store(path, entry, pixels, score.psnr_conventional_db)
                images = (pixels.object, paper.object, latent, both.object)
                columns.append(_column(score, frames.frames[0], images, field, light))
                if course.stopped():
                    break
        course.console.print(_table(scores))
    if yardstick is None:
        raise UsageError(f"{path}: holds no evaluation series")
    pixel = light.geometry.pixel_size_m
    figure = dose_figure(
        columns,
        field_of_view(yardstick.amplitude, field, pixel),
        field_of_view(yardstick.lit, field, pixel).astype(float),
        ROWS,
        f"{sample or profile.sample.object} from {len(frames)} diffraction patterns of the profile {profile.name}, "
        f"decoder {package.name}; inside the blue line there was light",
        out / FIGURE,
        pixel,
        light.geometry.pixel_size_m,
    )
    result = {
        "seconds": time.monotonic() - begin,
        "run": str(path),
        "figure": str(figure),
        "profile": profile.name,
        "object": sample or profile.sample.object,
        "decoder": package.name,
        "calibration": asdict(errors) | {"distance_m": light.geometry.distance_m},
        "prior_mean_db": baseline,
        "decoder_ceiling_db": ceiling,
        "exposures": [asdict(score) for score in scores],
        "interrupted": course.stopped(),
    }
    (out / REPORT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"figure: {figure}", file=sys.stderr)  # noqa: T201
    if course.stopped():
        done = f"{len(scores)} of {entries - 1} exposures are reconstructed, in {path}, and drawn"
        raise Interrupted(f"demo: {done}; the same command begins anew", values=result)
    return result


def _scan(profile: Profile, profile_name: str, seed: int, sample: str | None, path: Path) -> None:
    """The demo's scan into a new file, or the rest of one that was interrupted.

    Raises:
        UsageError: the file is of another scan.
        Interrupted: somebody stopped it.
    """
    interrupt = Interrupt()
    if path.exists():
        with open_run(path) as run:
            there = (run.profile_json, run.seed, run.sample)
        if there != (profile.model_dump_json(), seed, sample or profile.sample.object):
            raise UsageError(
                f"demo: {path} is an interrupted scan with other settings (seed {there[1]}, object {there[2]}, perhaps "
                "another profile); give those and go on with it, choose another --out, or delete it"
            )
        print(f"demo: goes on with {path}", file=sys.stderr)  # noqa: T201
        scanned = run_scan(profile_name, seed, sample, None, path, interrupt=interrupt)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        scanned = run_scan(profile_name, seed, sample, path, None, interrupt=interrupt)
    if scanned["outcome"] != "completed":
        raise Interrupted(
            f"demo: in the scan; its {scanned['frames']} frames are kept in {path}, the same command goes on with them",
            interrupt.exit_code,
            {name: value for name, value in scanned.items() if name != "go_on"},
        )


def _references(yardstick: Yardstick, package: DecoderPackage, pixel_m: float, field_m: float) -> tuple[float, float]:
    """PSNR of the training mean, and of the closest image that the decoder can draw."""
    size = len(yardstick.amplitude)
    mean = yardstick.psnr_db(draw_latent(package, None, size, pixel_m, field_m))
    return mean, yardstick.psnr_db(fit_image(package, yardstick.amplitude, pixel_m, field_m))


def _column(
    score: ExposureScore, pattern: NDArray, images: tuple[NDArray, ...], field_m: float, light: Illumination
) -> DoseColumn:
    pixel = light.geometry.pixel_size_m
    return DoseColumn(
        title=f"{time_words(score.exposure_s)}\n{count_words(score.photons_per_exposure)} photons",
        pattern=pattern,
        images=tuple(field_of_view(image, field_m, pixel) for image in images),
        psnr_db=(
            score.psnr_conventional_db,
            score.psnr_paper_db,
            score.psnr_latent_db,
            score.psnr_hybrid_db,
        ),
    )


def _table(scores: list[ExposureScore]) -> Table:
    # A verdict may err: it is told without the truth, which the last column knows.
    table = Table(
        title="PSNR over the lit field, in dB",
        caption="verdict: what the latent estimate says without the truth; alike: whether it is like the truth",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("exposure", "photons", "latent", "hybrid", "paper's", "pixels", "verdict", "alike"):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    for s in scores:
        table.add_row(
            f"{s.exposure_s * 1e3:.4g} ms",
            f"{s.photons_per_exposure:.3g}",
            f"{s.psnr_latent_db:.1f}",
            f"{s.psnr_hybrid_db:.1f}",
            f"{s.psnr_paper_db:.1f}",
            f"{s.psnr_conventional_db:.1f}",
            s.verdict,
            "yes" if s.recognisable else "no",
        )
    return table
