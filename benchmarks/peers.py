"""Ours and the peers side by side on one simulated near-field scan, error against core-seconds.

    python -m benchmarks.peers --peers /tmp/peers/bin/python [--write] [--figure docs/images/peers.png]

96 frames of 256 x 256 (561 nm, 65 mm, 13.8 um, below the critical distance, so that a plain angular spectrum is right
too) at sub-pixel positions, from `benchmarks.scans`, whose optics none of the contenders uses. The peers are given the
true positions and distance and hold them; ours starts from the nominal stage positions (1 px rms wrong) and a distance
2 mm short and has every unknown free. All start from the same soft disc and a uniform object. One thread each; time is
user + system of the contender's process from its first call on, imports left out. The error is metrics.md's: norm(g O -
O_true)/norm(O_true) over the central field after the best shift, linear phase and complex scale.

A peer runs in its own Python, told by `--peers`: see "Peers" in README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIAMETER_M = 500e-6
CONTENDERS = ("ours", "pty-chi LSQML", "pty-chi AD", "cdtools")
PEER_EPOCHS = (2, 4, 8, 12, 16, 24, 32, 48)
OUR_EPOCHS = (8, 12, 16, 24, 36, 52, 76)


def core_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# ---- Runners: each in a process of its own; the peers' import nothing of this project --------------------------------


def run_ours(scan: Any) -> list[tuple[float, np.ndarray]]:
    """Calibrations of several lengths, each from the start."""
    import torch

    from recon.calibrate import CalibrationSettings, calibrate, with_epochs
    from recon.dataset import Geometry, Ptychogram
    from recon.device import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    pixel, frames = float(scan["pixel"]), scan["frames"]
    data = Ptychogram(
        frames=frames,
        positions_m=scan["nominal"],
        exposures_s=np.ones(len(frames)),
        geometry=Geometry(float(scan["wavelength"]), float(scan["nominal_distance"]), pixel, frames.shape[1:]),
        dark_variance=np.full(frames.shape[1:], float(scan["variance"]), np.float32),
        mask=np.ones(frames.shape[1:], bool),
        name="benchmark",
    )
    results = []
    for epochs in OUR_EPOCHS:
        settings = CalibrationSettings(probe_diameter_m=DIAMETER_M, position_prior_m=pixel, full_epochs=2)
        settings = with_epochs(data, settings, data.geometry.shape[0], epochs)
        begin = core_seconds()
        found = calibrate(data, settings)
        results.append((core_seconds() - begin, found.object))
    return results


def disc(side: int, diameter_px: float) -> np.ndarray:
    """The starting probe of all: a disc with a soft edge, in the middle of `side` pixels."""
    axis = np.arange(side) - side // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    return (0.5 * (1 - np.tanh((radius - diameter_px / 2) / 1.5))).astype(np.complex64)


def run_ptychi(scan: Any, kind: str) -> list[tuple[float, np.ndarray]]:
    """pty-chi by its API, `kind` LSQML or AD; sub-pixel shifts on the object where it offers that (AD)."""
    import torch

    # A torchvision built for CUDA beside a torch for the CPU lacks its compiled operators and will not import without
    # these names; pty-chi takes from it a blur that nothing here uses.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            operators.define(f"{operator}(Tensor dets) -> Tensor")
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    torch.set_num_threads(1)
    frames, pixel = np.maximum(scan["frames"], 0), float(scan["pixel"])
    positions = scan["positions"] / pixel
    side = frames.shape[-1]
    options = api.LSQMLOptions() if kind == "LSQML" else api.AutodiffPtychographyOptions()
    options.data_options.data = frames
    options.data_options.wavelength_m = float(scan["wavelength"])
    options.data_options.free_space_propagation_distance_m = float(scan["distance"])
    options.data_options.fft_shift = False
    reach = int(np.ceil(np.abs(positions).max())) + 4
    size = side + 2 * reach
    options.object_options.initial_guess = np.ones((1, size, size), np.complex64)
    options.object_options.pixel_size_m = pixel
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = np.array([size / 2, size / 2])
    probe = disc(side, DIAMETER_M / pixel)
    probe = probe * np.sqrt(frames.sum((1, 2)).max() / (np.abs(probe) ** 2).sum())
    options.probe_options.initial_guess = probe[None, None]
    options.probe_position_options.position_y_px = positions[:, 0]
    options.probe_position_options.position_x_px = positions[:, 1]
    options.probe_position_options.optimizable = False
    settings = options.reconstructor_options
    settings.batch_size = 4
    settings.num_epochs = max(PEER_EPOCHS)
    settings.default_device = api.Devices.CPU
    settings.random_seed = 0
    if kind == "LSQML":
        options.object_options.optimizable = options.probe_options.optimizable = True
    else:
        settings.forward_model_params = {"apply_subpixel_shifts_on_probe": False}
        for part, rate in ((options.object_options, 0.02), (options.probe_options, 0.02 * float(np.abs(probe).max()))):
            part.optimizable = True
            part.optimizer = api.Optimizers.ADAM
            part.step_size = rate
    begin = core_seconds()
    task = PtychographyTask(options)
    results, done, own = [], 0, 0.0
    for epochs in PEER_EPOCHS:
        task.run(epochs - done)
        done = epochs
        now = core_seconds()
        obj = task.get_data_to_cpu("object", as_numpy=True)[0]
        results.append((now - begin - own, np.array(obj)))
        own += core_seconds() - now
    return results


def run_cdtools(scan: Any) -> list[tuple[float, np.ndarray]]:
    """cdtools' FancyPtycho with near-field propagation and Adam."""
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.models import FancyPtycho

    torch.set_num_threads(1)
    frames, pixel = np.maximum(scan["frames"], 0), float(scan["pixel"])
    side = frames.shape[-1]
    sign = float(scan["sign"]) if "sign" in scan else 1.0
    translations = np.zeros((len(frames), 3))
    translations[:, 0], translations[:, 1] = sign * scan["positions"][:, 1], sign * scan["positions"][:, 0]
    basis = np.array([[0.0, pixel], [pixel, 0.0], [0.0, 0.0]])
    geometry = {"distance": float(scan["distance"]), "basis": basis, "corner": None}
    dataset = Ptycho2DDataset(
        torch.as_tensor(translations, dtype=torch.float32),
        torch.as_tensor(frames, dtype=torch.float32),
        wavelength=float(scan["wavelength"]),
        detector_geometry=geometry,
        mask=torch.ones(side, side, dtype=torch.bool),
    )
    begin = core_seconds()
    model = FancyPtycho.from_dataset(dataset, near_field=True, obj_padding=20)
    results, done, own = [], 0, 0.0
    for epochs in PEER_EPOCHS:
        for _ in model.Adam_optimize(epochs - done, dataset, batch_size=4, lr=0.02, thread=False):
            pass
        done = epochs
        now = core_seconds()
        obj = model.obj.detach().cpu().numpy().copy()
        obj = obj[..., 0] + 1j * obj[..., 1] if obj.shape[-1] == 2 else obj
        results.append((now - begin - own, obj.squeeze()))
        own += core_seconds() - now
    return results


RUNNERS = {
    "ours": run_ours,
    "pty-chi LSQML": lambda scan: run_ptychi(scan, "LSQML"),
    "pty-chi AD": lambda scan: run_ptychi(scan, "AD"),
    "cdtools": run_cdtools,
}


# ---- Scores ----------------------------------------------------------------------------------------------------------


def peers_error(estimate: np.ndarray, truth: np.ndarray, radius_px: int) -> float:
    """norm(g O_est - O)/norm(O) in the central square of +-`radius_px` after the best shift, ramp and scale."""
    from scipy import ndimage, optimize

    from recon.illumination import remove_ramp

    half = radius_px + 12
    centre = truth.shape[0] // 2
    target = truth[centre - half : centre + half, centre - half : centre + half].astype(complex)
    c = estimate.shape[0] // 2
    piece = estimate[c - half : c + half, c - half : c + half].astype(complex)
    if not np.isfinite(piece).all():
        return float("inf")
    piece, _ = remove_ramp(piece, np.ones((2, 2), complex), np.ones(piece.shape))
    spectra = np.fft.fft2(np.abs(piece) - np.abs(piece).mean()), np.fft.fft2(np.abs(target) - np.abs(target).mean())
    match = np.fft.ifft2(spectra[0].conj() * spectra[1]).real
    start = np.array(np.unravel_index(np.argmax(match), match.shape), float)
    start = np.where(start > half, start - 2 * half, start)
    if np.abs(start).max() > 10:
        start = np.zeros(2)
    inside = slice(12, 12 + 2 * radius_px)
    goal = target[inside, inside]
    y, x = np.indices(goal.shape) - radius_px

    def residual(p: np.ndarray) -> float:
        moved = ndimage.shift(piece.real, p[:2], order=3) + 1j * ndimage.shift(piece.imag, p[:2], order=3)
        moved = moved[inside, inside] * np.exp(1j * (p[2] * y + p[3] * x))
        scale = np.vdot(moved, goal) / max(float((np.abs(moved) ** 2).sum()), 1e-300)
        return float(np.linalg.norm(scale * moved - goal) / np.linalg.norm(goal))

    simplex = np.array([[*start, 0, 0]] + [[*start, 0, 0]] * 4, float)
    for k, step in enumerate((0.5, 0.5, 2e-3, 2e-3)):
        simplex[k + 1, k] += step
    options = {"initial_simplex": simplex, "maxiter": 300, "xatol": 1e-3, "fatol": 1e-5}
    return float(optimize.minimize(residual, simplex[0], method="Nelder-Mead", options=options).fun)


def contend(name: str, python: str, scan: Path, folder: Path) -> list[tuple[float, np.ndarray]] | str:
    """One contender in its own process; why it failed, in words, instead."""
    out = folder / f"{name.replace(' ', '-')}.npz"
    threads = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    command = [python, str(Path(__file__).resolve()), "--run", name, str(scan), str(out)]
    if name == "ours":
        command = [python, "-m", "benchmarks.peers", "--run", name, str(scan), str(out)]
    done = subprocess.run(command, env=threads, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    with np.load(out) as archive:
        seconds = archive["seconds"]
        return [(float(t), archive[f"object_{k}"]) for k, t in enumerate(seconds)]


def seconds_to(curve: list[tuple[float, float]], error: float) -> float | None:
    """Core-seconds until a curve first reaches an error, log-interpolated; None if it never does."""
    for k, (t, e) in enumerate(curve):
        if e <= error:
            if k == 0:
                return t
            t0, e0 = curve[k - 1]
            share = (np.log(e0) - np.log(error)) / max(np.log(e0) - np.log(e), 1e-12)
            return float(t0 + share * (t - t0))
    return None


def make_scan(path: Path) -> tuple[np.ndarray, int]:
    """Write the scan for all contenders; returns the true object and the radius (px) of the scored square."""
    from benchmarks.scans import simulate, small_bench

    bench = small_bench()
    scan = simulate(bench, distance_error_m=2e-3, position_rms_m=bench.pixel_m, seed=1)
    data = scan.data
    np.savez(
        path,
        frames=data.frames,
        nominal=data.positions_m,
        positions=scan.positions_m,
        nominal_distance=data.geometry.distance_m,
        distance=scan.distance_m,
        wavelength=data.geometry.wavelength_m,
        pixel=bench.pixel_m,
        variance=float(data.dark_variance[0, 0]),
    )
    return scan.object, int(0.6 * np.abs(scan.positions_m).max() / bench.pixel_m)


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Error against core-seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, curve in curves.items():
        style = {"linewidth": 2.5} if name == "ours" else {}
        axes.loglog(*zip(*curve, strict=True), "o-", markersize=4, label=name, **style)
    axes.set_xlabel("core-seconds (user + system, one thread)")
    axes.set_ylabel("error of the object")
    axes.set_title("96 frames of 256 x 256; ours: distance and positions unknown,\npeers: both given", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Run the contenders one after the other and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="", help="the Python of the peers' environment")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "SCAN", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, scan_path, out = arguments.run
        with np.load(scan_path) as archive:
            scan = {key: archive[key] for key in archive.files}
        with contextlib.redirect_stdout(sys.stderr):
            results = RUNNERS[name](scan)
        np.savez(out, seconds=[t for t, _ in results], **{f"object_{k}": o for k, (_, o) in enumerate(results)})
        return 0
    curves: dict[str, list[tuple[float, float]]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth, radius = make_scan(folder / "scan.npz")
        for name in arguments.only:
            python = sys.executable if name == "ours" else arguments.peers
            if not python:
                failures[name] = "not measured: no --peers"
                continue
            begin = time.perf_counter()
            found = contend(name, python, folder / "scan.npz", folder)
            print(f"{name}: {time.perf_counter() - begin:.0f} s of wall time", file=sys.stderr)
            if isinstance(found, str):
                failures[name] = found
                continue
            curves[name] = [(t, peers_error(obj, truth, radius)) for t, obj in found]
            print(name, json.dumps([(round(t, 2), round(e, 4)) for t, e in curves[name]]), flush=True)
    rows = [(name, f"failed: {why}", "") for name, why in failures.items()]
    for name, curve in curves.items():
        best = min(e for _, e in curve)
        rows.append((f"{name}: object error over core-seconds", "; ".join(f"{e:.3f} at {t:.1f}" for t, e in curve), ""))
        if name != "ours" and "ours" in curves:
            ours, theirs = seconds_to(curves["ours"], best), seconds_to(curve, best)
            value = "never" if ours is None or theirs is None else f"{ours:.1f} against {theirs:.1f} core-s"
            if ours and theirs:
                value += f", {theirs / ours:.1f} times"
            rows.append((f"ours to the best error of {name} ({best:.3f})", value, "at least 2 times"))
    for row in rows:
        print(" | ".join(row))
    if arguments.figure and curves:
        draw(curves, arguments.figure)
    if arguments.write:
        from benchmarks.report import append_rows, machine

        append_rows(
            "python -m benchmarks.peers", [(q, m, c or "-") for q, m, c in rows], machine("torch", "numpy", cores=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
