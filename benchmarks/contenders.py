"""One reconstruction of one package, in a process of its own: `PYTHON contenders.py PACKAGE OPTIONS SCAN OUT`.

A peer runs in its own Python and imports nothing of this project. OPTIONS is one JSON object (see `benchmarks.peers`,
which chooses them), SCAN the archive that `benchmarks.peers` writes, OUT the archive of objects and core-seconds. Time
is user + system of the process from the package's first call on: imports, reading the archive and the copies of
objects for the score are left out.

Every peer starts from the same probe as ours, a disc with a soft edge, a uniform object and the nominal positions, and
is told the true distance; ours begins with the nominal one and finds the true one itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Result = tuple[list[tuple[float, np.ndarray]], dict[str, float]]
"""(core-seconds, object) along the course, and what else is worth telling."""


class Clock:
    """Core-seconds of this process since it was made, without what `paused` encloses."""

    def __init__(self) -> None:
        self.begin = self._now()

    @staticmethod
    def _now() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def seconds(self) -> float:
        return self._now() - self.begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[float]:
        """Time of the entry, in core-seconds; what the block takes does not count."""
        entry = self._now()
        yield entry - self.begin
        self.begin += self._now() - entry


def disc(side: int, diameter_px: float) -> np.ndarray:
    """The starting probe of all: a disc with a soft edge, in the middle of `side` pixels."""
    axis = np.arange(side) - side // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    return (0.5 * (1 - np.tanh((radius - diameter_px / 2) / 1.5))).astype(np.complex64)


def start_probe(scan: Any) -> np.ndarray:
    """The disc with as much light as the brightest frame, on the frame's pixels."""
    frames = scan["frames"]
    probe = disc(frames.shape[-1], float(scan["diameter"] / scan["pixel"]))
    return probe * np.sqrt(frames.sum((1, 2)).max() / (np.abs(probe) ** 2).sum()).astype(np.float32)


def run_ours(scan: Any, options: dict[str, Any]) -> Result:
    """One calibration of so many epochs; the result at its end."""
    import torch

    from recon.calibrate import CalibrationSettings, calibrate, with_epochs
    from recon.dataset import Geometry, Ptychogram
    from recon.metrics import fit_positions

    torch.set_num_threads(1)
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
    settings = CalibrationSettings(
        probe_diameter_m=float(scan["diameter"]), position_prior_m=pixel, **options.get("settings", {})
    )
    if "epochs" in options:
        settings = with_epochs(data, settings, frames.shape[-1], options["epochs"])
    clock = Clock()
    found = calibrate(data, settings)
    seconds = clock.seconds()
    fitted = fit_positions(found.illumination.positions_m, scan["positions"])
    notes = {
        "epochs": len(found.loss),
        "position_rms_px": fitted.rms_m / pixel,
        "distance_error_mm": 1e3 * (found.illumination.geometry.distance_m / fitted.scale - float(scan["distance"])),
    }
    return [(seconds, found.object)], notes


def run_ptychi(scan: Any, options: dict[str, Any]) -> Result:
    """pty-chi by its API: LSQML, rPIE, ePIE or AD (Adam).

    Sub-pixel shifts are on the object where it offers that (AD): the frame of probe and camera stands still.
    """
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
    kind, marks = options["kind"], options["marks"]
    frames, pixel = np.maximum(scan["frames"], 0), float(scan["pixel"])
    positions = scan["nominal"] / pixel
    side = frames.shape[-1]
    reach = int(np.ceil(np.abs(positions).max())) + 8
    size = side + 2 * reach
    probe = start_probe(scan)
    wanted = {
        "LSQML": api.LSQMLOptions,
        "rPIE": api.RPIEOptions,
        "ePIE": api.EPIEOptions,
        "AD": api.AutodiffPtychographyOptions,
    }[kind]()
    wanted.data_options.data = frames
    wanted.data_options.wavelength_m = float(scan["wavelength"])
    wanted.data_options.free_space_propagation_distance_m = float(scan["distance"])
    wanted.data_options.fft_shift = False
    obj, light, places = wanted.object_options, wanted.probe_options, wanted.probe_position_options
    obj.initial_guess = np.ones((1, size, size), np.complex64)
    obj.pixel_size_m = pixel
    obj.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    obj.position_origin_coords = np.array([size / 2, size / 2])
    light.initial_guess = probe[None, None]
    places.position_y_px, places.position_x_px = positions[:, 0], positions[:, 1]
    obj.optimizable = light.optimizable = places.optimizable = True
    places.optimization_plan.start = options.get("positions_from", 2)
    settings = wanted.reconstructor_options
    settings.batch_size = options.get("batch", 4)
    settings.num_epochs = max(marks)
    settings.default_device = api.Devices.CPU
    settings.random_seed = 0
    settings.forward_model_options.pad_for_shift = options.get("pad", 1)
    if kind == "AD":
        settings.forward_model_params = {"apply_subpixel_shifts_on_probe": False}
        rate = options["rate"]
        # Adam's steps are in the parameter's own units; the probe's are the square root of photons.
        steps = ((obj, rate), (light, rate * float(np.abs(probe).max())), (places, options["position_rate"]))
        for part, step in steps:
            part.optimizer, part.step_size = api.Optimizers.ADAM, step
            if options.get("anneal"):
                part.optimization_plan.step_size_scheduler_class = "CosineAnnealingLR"
                part.optimization_plan.step_size_scheduler_options = {"T_max": max(marks), "eta_min": 0.05 * step}
    else:
        places.step_size = options.get("position_rate", 0.3)
        if kind != "LSQML":
            obj.alpha, light.alpha = options["alpha"]
            obj.step_size, light.step_size = options.get("steps", (1.0, 1.0))
        elif options.get("momentum"):
            settings.momentum_acceleration_gain = options["momentum"]
            settings.momentum_acceleration_gradient_mixing_factor = None
            settings.batching_mode = api.BatchingModes.UNIFORM
    clock = Clock()
    task = PtychographyTask(wanted)
    results, done = [], 0
    for mark in marks:
        task.run(mark - done)
        done = mark
        with clock.paused() as seconds:
            results.append((seconds, np.array(task.get_data_to_cpu("object", as_numpy=True)[0])))
    found = task.get_data_to_cpu("probe_positions", as_numpy=True)
    return results, {"position_rms_px": position_rms(found, scan["positions"] / pixel)}


def run_cdtools(scan: Any, options: dict[str, Any]) -> Result:
    """cdtools' FancyPtycho in the near field, by Adam; flux and background fixed, which they are in this scan."""
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.models import FancyPtycho
    from cdtools.reconstructors import AdamReconstructor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    marks = options["marks"]
    frames, pixel = np.maximum(scan["frames"], 0), float(scan["pixel"])
    side = frames.shape[-1]
    translations = np.zeros((len(frames), 3))
    translations[:, 0], translations[:, 1] = scan["nominal"][:, 1], scan["nominal"][:, 0]
    basis = np.array([[0.0, pixel], [pixel, 0.0], [0.0, 0.0]])
    dataset = Ptycho2DDataset(
        torch.as_tensor(translations, dtype=torch.float32),
        torch.as_tensor(frames, dtype=torch.float32),
        wavelength=float(scan["wavelength"]),
        detector_geometry={"distance": float(scan["distance"]), "basis": basis, "corner": None},
        mask=torch.ones(side, side, dtype=torch.bool),
    )
    clock = Clock()
    model = FancyPtycho.from_dataset(
        dataset, near_field=True, obj_padding=20, simulate_finite_pixels=options.get("finite_pixels", False)
    )
    model.weights.requires_grad = model.background.requires_grad = False
    if options.get("probe", "disc") == "disc":
        probe = torch.as_tensor(start_probe(scan))
        model.probe_norm.fill_(float(probe.abs().max()))
        model.probe.data[:] = probe / model.probe_norm
    adam = AdamReconstructor(model, dataset)
    results, done = [], 0
    # Steps of ever smaller size, as in the package's own examples, or of one size throughout.
    for count, rate in zip(np.diff([0, *marks]), rates_of(options, len(marks)), strict=True):
        factors = {"translation_offsets": options["position_factor"], "probe": options.get("probe_factor", 1.0)}
        if done < options.get("positions_from", 2):
            factors["translation_offsets"] = 0.0
        kwargs = {"batch_size": options.get("batch", 4), "lr_factors": factors, "thread": False}
        for _ in adam.optimize(int(count), lr=rate, **kwargs):
            pass
        done += int(count)
        with clock.paused() as seconds:
            results.append((seconds, model.obj.detach().cpu().numpy().copy().squeeze()))
    offsets = (model.translation_offsets * model.translation_scale).detach().numpy()
    moved = scan["nominal"] / pixel + offsets
    return results, {"position_rms_px": position_rms(moved, scan["positions"] / pixel)}


def rates_of(options: dict[str, Any], count: int) -> list[float]:
    """The step size up to each mark: constant, or a cosine down to a twentieth over the marks."""
    if not options.get("anneal"):
        return [options["rate"]] * count
    share = np.arange(count) / max(count - 1, 1)
    return [float(options["rate"] * (0.05 + 0.475 * (1 + np.cos(np.pi * s)))) for s in share]


def run_ptylab(scan: Any, options: dict[str, Any]) -> Result:
    """PtyLab's PIE engines with the band-limited angular spectrum and pcPIE's position correction.

    Its positions are whole pixels. `finer` > 1 hands it frames on that much finer pixels instead (each camera pixel
    divided, its light shared), so that positions are whole fractions of a camera pixel.
    """
    import h5py
    from PtyLab import Engines
    from PtyLab.ExperimentalData.ExperimentalData import ExperimentalData
    from PtyLab.Monitor.Monitor import DummyMonitor
    from PtyLab.Params.Params import Params
    from PtyLab.Reconstruction.Reconstruction import Reconstruction

    np.random.seed(0)  # noqa: NPY002 - the order of PtyLab's positions comes from numpy's global generator
    marks, finer = options["marks"], options.get("finer", 1)
    frames, pixel = np.maximum(scan["frames"], 0).astype(np.float32), float(scan["pixel"]) / finer
    if finer > 1:
        frames = np.repeat(np.repeat(frames, finer, 1), finer, 2) / np.float32(finer**2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.hdf5"
        with h5py.File(path, "w") as file:
            file["ptychogram"], file["encoder"] = frames, scan["nominal"]
            file["wavelength"], file["dxd"] = float(scan["wavelength"]), pixel
            file["zo"] = float(scan[options.get("distance", "distance")])
            file["entrancePupilDiameter"] = float(scan["diameter"])
        data = ExperimentalData(str(path))
    clock = Clock()
    params = Params()
    params.propagatorType = "ASP"
    params.positionOrder = "random"
    params.positionCorrectionSwitch = options.get("positions", True)
    params.probePowerCorrectionSwitch = options.get("power", True)
    found = Reconstruction(data, params)
    # In the near field object, probe and camera have one pitch; the size of the object follows from it.
    found.dxp = found.dxd
    del found.No
    found.computeParameters()
    found.initializeObjectProbe()
    found.probe[...] = disc(frames.shape[-1], float(scan["diameter"]) / pixel) * np.abs(start_probe(scan)).max() / finer
    found.initialGuessProbe = found.probe.copy()
    engine = getattr(Engines, options["engine"])(found, data, params, DummyMonitor())
    for name, value in options.get("set", {}).items():
        setattr(engine, name, value)
    results, done = [], 0
    for mark in marks:
        engine.numIterations = mark - done
        engine.reconstruct()
        done = mark
        with clock.paused() as seconds:
            obj = np.array(found.object.squeeze())
            if finer > 1:
                c = obj.shape[0] // 2 // finer * finer
                first = obj.shape[0] // 2 - c
                cut = obj[first : first + 2 * c, first : first + 2 * c]
                obj = cut.reshape(len(cut) // finer, finer, len(cut) // finer, finer).mean((1, 3))
            results.append((seconds, obj))
    rms = position_rms(found.encoder_corrected / scan["pixel"], scan["positions"] / scan["pixel"])
    return results, {
        "position_rms_px": rms,
        "distance_error_mm": 1e3 * (float(found.zo) - float(scan["distance"])),
    }


def position_rms(found_px: np.ndarray, true_px: np.ndarray) -> float:
    """rms distance after the best shift and isotropic scale."""
    a, b = np.asarray(found_px) - np.mean(found_px, 0), true_px - true_px.mean(0)
    scale = (a * b).sum() / (a * a).sum()
    return float(np.sqrt(((scale * a - b) ** 2).sum(1).mean()))


RUNNERS: dict[str, Callable[[Any, dict[str, Any]], Result]] = {
    "ours": run_ours,
    "pty-chi": run_ptychi,
    "cdtools": run_cdtools,
    "PtyLab": run_ptylab,
}


def main() -> int:
    """Run and write; whatever a package prints goes to stderr."""
    package, options, scan_path, out = sys.argv[1:]
    with np.load(scan_path) as archive:
        scan = {key: archive[key] for key in archive.files}
    with contextlib.redirect_stdout(sys.stderr):
        results, notes = RUNNERS[package](scan, json.loads(options))
    objects = {f"object_{k}": obj for k, (_, obj) in enumerate(results)}
    np.savez(out, seconds=[t for t, _ in results], notes=json.dumps(notes), **objects)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
