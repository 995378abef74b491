"""How long does an estimate take? 16 frames of 1024 x 1024, from cold and warm, an added frame, the paper's beside it.

python -m benchmarks.latent_speed [--device cuda] [--photons 1000,300,100] [--threads 2]

Times are medians of `--count` repetitions after a first one, the device synchronised; "cold" is measured once, in a
process that has imported everything and computed nothing on the device. Frames are in the computer's memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from app.studies.objects import drawn_on
from app.studies.scene import FIELD_M, StudyScene
from benchmarks.latent_scene import Objects, bench_options
from benchmarks.report import append_rows, machine
from recon.dataset import Ptychogram
from recon.decoders.companion import companion_path, load_companion
from recon.decoders.package import find_package, load_package
from recon.estimator import LatentEstimator
from recon.paper import LitBlocks, PaperSettings, paper_fits
from recon.simulated import exposed, intensities
from recon.tracker import Tracker

FRAME, POINTS = 1024, 16
CLAIMS = {
    "cpu": {"estimate": "2 s", "cold": "15 s", "added": "0.2 s"},
    "cuda": {"estimate": "0.05 s", "cold": "", "added": "0.01 s"},
}


def timed(device: str, work: Callable[[], object], count: int) -> float:
    """Median seconds of `count` repetitions after one that is not counted."""
    seconds = []
    for _ in range(count + 1):
        begin = now(device)
        work()
        seconds.append(now(device) - begin)
    return statistics.median(seconds[1:]) if count else seconds[0]


def now(device: str) -> float:
    """Seconds, everything before done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def frames_of(objects: Objects, dose: float, sigma: float, device: str) -> Ptychogram:
    """17 frames: the 16 of the study and one more of the spiral's points."""
    scene = StudyScene("paper", 3.45e-6, FRAME, POINTS)
    points = np.append(scene.indices, scene.indices[-1] + 1)
    positions = scene.light.positions_m[points]
    light = intensities(scene.light, positions, drawn_on(objects.image("digit", 0), scene), device)
    frames = exposed(light, dose, sigma, np.array([1, round(dose)], np.uint32)).cpu().numpy()
    count = len(points)
    return Ptychogram(
        frames=frames,
        dark_variance=np.full((FRAME, FRAME), sigma**2, np.float32),
        mask=np.ones((FRAME, FRAME), bool),
        positions_m=positions,
        indices=points,
        exposures_s=np.full(count, dose),
        geometry=scene.light.geometry,
        name="speed",
    )


def build(decoder: str, prior: Path | None, device: str) -> LatentEstimator:
    """All that is loaded and drawn before frames are prepared for."""
    package = load_package(decoder)
    companion = load_companion(prior or companion_path(find_package(decoder)), package)
    light = StudyScene("paper", 3.45e-6, FRAME, POINTS).light
    return LatentEstimator.build(package, companion, light, FIELD_M, device=device)


def search(estimator: LatentEstimator, frames: Ptychogram) -> object:
    """What an estimate takes without the verdict and pictures."""
    prepared = estimator.prepare(frames)
    observation = estimator.observe(frames, prepared)
    return estimator.found(observation, scores=estimator.scores(observation, prepared))


def added(estimator: LatentEstimator, data: Ptychogram, device: str, count: int) -> float:
    """Median seconds that the last frame takes on top of the others, from the same state each time."""
    tracker = Tracker.of(estimator, data.indices, data.exposures_s, data.dark_variance, data.mask)
    tracker.add(data.select(np.arange(len(data) - 1)))
    last = data.select(np.array([len(data) - 1]))
    seconds = []
    for _ in range(count + 1):
        follower = replace(tracker, _data=list(tracker._data))
        begin = now(device)
        found = follower.add(last)
        seconds.append(now(device) - begin)
        if not found.followed:
            print("  the added frame called for a search anew", flush=True)
    return statistics.median(seconds[1:]) if count else seconds[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    bench_options(parser)
    parser.add_argument("--photons", default="1000,300,100")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--no-paper", action="store_true")
    asked = parser.parse_args()
    device, count = asked.device, asked.count
    torch.set_num_threads(asked.threads)
    objects = Objects.load(asked.objects)
    doses = [float(word) for word in asked.photons.split(",")]
    # Frames are made on the CPU: the device stays cold.
    data = {dose: frames_of(objects, dose, asked.read_noise, "cpu") for dose in doses}
    where = f"{asked.threads} threads" if device == "cpu" else torch.cuda.get_device_name()
    claims = CLAIMS[device]
    results: list[tuple[str, str, str]] = []

    def report(what: str, seconds: float, claim: str = "") -> None:
        results.append((f"{where}: {what}", f"{seconds:.3g} s", claim))
        print(f"{where}: {what}: {seconds:.4f} s {f'(claim {claim})' if claim else ''}", flush=True)

    first = data[doses[0]].select(np.arange(POINTS))
    begin = now(device)
    estimator = build(asked.decoder, asked.prior, device)
    built = now(device)
    estimator.prepare(first)
    prepared = now(device)
    estimator.estimate(first)
    ended = now(device)
    report(f"cold, {doses[0]:g} photons: load, bank, prepare, estimate", ended - begin, claims["cold"])
    report("    of it loading and bank", built - begin)
    report("    of it preparing", prepared - built)
    for dose in doses:
        frames = data[dose].select(np.arange(POINTS))
        estimator.prepare(frames)
        report(
            f"estimate, {dose:g} photons",
            timed(device, lambda f=frames: estimator.estimate(f), count),
            claims["estimate"],
        )
        report(
            f"    of it frames to events, {dose:g} photons", timed(device, lambda f=frames: estimator.observe(f), count)
        )
        report(
            f"    of it search and draws, {dose:g} photons", timed(device, partial(search, estimator, frames), count)
        )
        report(
            f"a 17th frame, {dose:g} photons: its photons counted, draws weighed and moved on, verdict",
            added(estimator, data[dose], device, count),
            claims["added"],
        )
    if not asked.no_paper:
        package = estimator.package
        lit = LitBlocks.of_decoder(package, estimator.light, first.positions_m, FIELD_M)
        one = PaperSettings(rates=(0.3,), starts=("mean",))
        exposed_lit = lit.with_seconds(doses[0])

        def whole(settings: PaperSettings) -> object:
            return paper_fits(exposed_lit, package, exposed_lit.summed(first), settings)

        for name, settings in (("one run", one), ("all six runs together", PaperSettings())):
            seconds = timed(device, partial(whole, settings), 1 if device == "cuda" else 0)
            report(f"the paper's method, Eq. 1 and Adam, 100 epochs, {doses[0]:g} photons, {name}", seconds)
    if device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    if asked.record:
        command = f"python -m benchmarks.latent_speed --device {device} --photons {asked.photons}"
        append_rows(command, results, f"{where}; {machine('torch', cores=asked.threads)}")


if __name__ == "__main__":
    main()
