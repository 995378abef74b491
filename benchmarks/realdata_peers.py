"""cdtools and pty-chi on published data, each called as its authors call it; run by `benchmarks.realdata` in the peers'
own Python. It imports nothing of this project and writes what it found, at several moments, as arrays.

    /tmp/peers/bin/python benchmarks/realdata_peers.py cdtools FILE.cxi OUT.npz '{"lr": 0.04}'

A solution is: object (M, M'), probe (modes, K, K), corner (N, 2) whole pixels of each frame's window on the object and
shift (N, 2) what the probe is displaced by within it, weight (N,) a frame's factor on the probe's amplitude, background
(H, W) counts. Solutions are numbered, with `seconds` the processor time of each since the first call into the package.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import io
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Keep = Callable[[dict[str, np.ndarray]], None]


def core_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Moments:
    """Solutions with the processor time at which they were reached, without the time that keeping them took.

    They go into the file `path` as they come.
    """

    def __init__(self, path: str):
        self.path = path
        self.begin, self.seconds, self.arrays = core_seconds(), list[float](), dict[str, np.ndarray]()

    def keep(self, solution: Callable[[], dict[str, np.ndarray]]) -> None:
        now = core_seconds()
        number = len(self.seconds)
        self.seconds.append(now - self.begin)
        self.arrays |= {f"{name}_{number}": value for name, value in solution().items()}
        np.savez(self.path, seconds=self.seconds, **self.arrays)
        self.begin += core_seconds() - now


def split(positions: np.ndarray, whole: np.ndarray) -> dict[str, np.ndarray]:
    """The whole and the remaining part of windows' corners (N, 2), in pixels."""
    return {"corner": whole.astype(np.int64), "shift": positions - whole}


def run_cdtools(path: str, options: dict[str, Any], moments: Moments) -> None:
    """examples/near_field_ptycho.py of cdtools, without its windows. Options: padding, and [epochs, lr, batch] courses.

    Its own are padding 200 and [[100, 0.04, 10], [50, 0.005, 50]].
    """
    import cdtools
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    moments.begin = core_seconds()
    dataset = cdtools.datasets.Ptycho2DDataset.from_cxi(path)
    model = cdtools.models.FancyPtycho.from_dataset(
        dataset,
        n_modes=options.get("modes", 1),
        near_field=True,
        propagation_distance=options["focus_to_sample"],
        units="um",
        obj_padding=options["padding"],
        loss="poisson_nll",
    )
    losses: list[float] = []

    def solution() -> dict[str, np.ndarray]:
        with torch.no_grad():
            pixels = cdtools.tools.interactions.translations_to_pixel(
                model.obj_basis, dataset.translations.float(), surface_normal=model.surface_normal
            )
            corner = pixels - model.min_translation + model.translation_scale * model.translation_offsets
            corner = corner.double().numpy()
            return {
                "object": model.obj.detach().numpy().copy(),
                "probe": (model.probe_norm * model.probe).detach().numpy().copy(),
                "weight": model.weights.detach().double().numpy().copy(),
                "background": (model.background**2).detach().numpy().copy(),
                "own_loss": np.array(losses[-1] if losses else np.nan),
                **split(corner, np.floor(corner)),
            }

    reconstructor = cdtools.reconstructors.AdamReconstructor(model, dataset)
    every = options.get("every", 10)
    for epochs, rate, batch in options["courses"]:
        for loss in reconstructor.optimize(epochs, lr=rate, batch_size=batch, thread=False):
            losses.append(float(loss))
            if len(losses) % every == 0:
                moments.keep(solution)
                print(len(losses), round(moments.seconds[-1], 1), round(losses[-1], 4), flush=True)


def run_ptychi(path: str, options: dict[str, Any], moments: Moments) -> None:
    """pty-chi's LSQML as its own tests call it, on tike's file. Options: batch, epochs, every, positions.

    Smaller batches are its tuning: steps are solved for, and momentum changes nothing with random batches.
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
    from ptychi.utils import get_suggested_object_size

    torch.set_num_threads(1)
    moments.begin = core_seconds()
    archive = np.load(io.BytesIO(bz2.decompress(Path(path).read_bytes())))
    frames, scan, probe = archive["data"][0], archive["scan"][0].astype(np.float64), archive["probe"][0, 0]
    positions = scan - scan.mean(0)
    lsqml = api.LSQMLOptions()
    lsqml.data_options.data = frames
    lsqml.data_options.fft_shift = False
    size = get_suggested_object_size(torch.from_numpy(positions), probe.shape[-2:], extra=50)
    lsqml.object_options.initial_guess = np.ones((1, *size), np.complex64)
    lsqml.object_options.pixel_size_m = 1.0
    lsqml.object_options.optimizer = api.Optimizers.SGD
    lsqml.object_options.step_size = 1
    lsqml.object_options.build_preconditioner_with_all_modes = True
    # As its guide says: the probe's transform has the power of the brightest pattern.
    power = float((np.abs(np.fft.fft2(probe)) ** 2).sum())
    lsqml.probe_options.initial_guess = probe * np.sqrt(frames.sum((1, 2)).max() / power)
    lsqml.probe_options.optimizer = api.Optimizers.SGD
    lsqml.probe_options.step_size = 1
    lsqml.probe_position_options.position_y_px = positions[:, 0]
    lsqml.probe_position_options.position_x_px = positions[:, 1]
    lsqml.probe_position_options.optimizable = bool(options["positions"])
    if options["positions"]:
        lsqml.probe_position_options.optimizer = api.Optimizers.SGD
        lsqml.probe_position_options.step_size = options["positions"]
    settings = lsqml.reconstructor_options
    settings.batch_size = options["batch"]
    settings.num_epochs = options["epochs"]
    settings.noise_model = api.NoiseModels.GAUSSIAN
    settings.default_device = api.Devices.CPU
    settings.random_seed = 0
    task = PtychographyTask(lsqml)

    def solution() -> dict[str, np.ndarray]:
        obj = task.get_data_to_cpu("object", as_numpy=True)[0]
        found = task.get_data_to_cpu("probe", as_numpy=True)[0]
        centre = np.stack([task.get_probe_positions_y(as_numpy=True), task.get_probe_positions_x(as_numpy=True)], 1)
        # Counted between pixels.
        origin = task.reconstructor.parameter_group.object.pos_origin_coords.cpu().numpy() + 0.5
        # Its transforms are unnormalised; the criterion's keep the energy.
        probes = found * np.sqrt(found.shape[-1] * found.shape[-2])
        whole = centre.round() + np.round(origin) - np.array(found.shape[-2:]) // 2
        return {
            "object": np.array(obj),
            "probe": probes,
            "weight": np.ones(len(centre)),
            "background": np.zeros(frames.shape[1:]),
            "corner": whole.astype(np.int64),
            "shift": centre - centre.round(),
        }

    done, every = 0, options["every"]
    while done < options["epochs"]:
        task.run(every)
        done += every
        moments.keep(solution)
        print(done, round(moments.seconds[-1], 1), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=("cdtools", "ptychi"))
    parser.add_argument("path")
    parser.add_argument("out")
    parser.add_argument("options", type=json.loads)
    arguments = parser.parse_args()
    moments = Moments(arguments.out)
    with contextlib.redirect_stdout(sys.stderr):
        {"cdtools": run_cdtools, "ptychi": run_ptychi}[arguments.peer](arguments.path, arguments.options, moments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
