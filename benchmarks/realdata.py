"""Published data, ours beside the program of its authors' choice: error against core-seconds, and pictures.

    python -m benchmarks.realdata --peers /tmp/peers/bin/python [--only petra siemens] [--write] [--figures docs/images]

petra: a Siemens star in magnified near field, PETRA III P25 (doi 10.5281/zenodo.17899482), beside cdtools with the
settings of its own example for this file and with tuned ones. siemens: tike's Siemens star in the far field, beside
pty-chi's LSQML as its tests call it and tuned; both begin with the probe in the file, ours from a plain disc too. Ours
is `ptychoscope calibrate` on the file as it is, at several `--epochs`, each from the start, without its question after
the orientation and its standard deviations. All refine probe, object and positions.

A solution is scored by `benchmarks.criterion`, which shares no code with any of them; its second error is what cdtools
calls its loss. One thread each; time is user + system of the contender's process from reading the file on, imports
left out. Files are looked for in the folder that PTYCHOSCOPE_DATA names. `--keep FOLDER` keeps solutions and does not
compute those again that are there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.criterion import Score, Setup, Solution, score
from benchmarks.realdata_peers import Moments, core_seconds
from recon.files.imports import Overrides

PEERS_SCRIPT = Path(__file__).with_name("realdata_peers.py")
NAMES = ("object", "probe", "corner", "shift", "weight", "background")


@dataclass(frozen=True)
class Contender:
    """One way to reconstruct: "ours" or one of `realdata_peers`, and its options."""

    name: str
    program: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and who reconstructs it; the first contender is ours.

    Attributes:
        claim: which error decides: "amplitude" or "poisson".
        view: pixels left out on every side of the pictures of the object.
    """

    file: str
    title: str
    overrides: Overrides
    contenders: tuple[Contender, ...]
    claim: str
    view: int


CASES = {
    "petra": Case(
        "PETRAIII_P25_Near_Field_Ptycho.cxi",
        "PETRA III P25, magnified near field: 200 frames of 100 x 100",
        Overrides(focus_to_sample_m=3.65e-3),
        (
            Contender("ours, two modes", "ours", {"modes": 2, "epochs": [16, 30, 46, 66]}),
            Contender("ours, one mode", "ours", {"modes": 1, "epochs": [24, 50]}),
            Contender(
                "cdtools, its example",
                "cdtools",
                {"focus_to_sample": 3.65e-3, "padding": 200, "courses": [[100, 0.04, 10], [50, 0.005, 50]]},
            ),
            Contender(
                "cdtools, tuned",
                "cdtools",
                {
                    "focus_to_sample": 3.65e-3,
                    "padding": 20,
                    "every": 5,
                    "courses": [[60, 0.04, 10], [30, 0.005, 50]],
                },
            ),
            Contender(
                "cdtools, tuned, two modes",
                "cdtools",
                {
                    "focus_to_sample": 3.65e-3,
                    "padding": 20,
                    "every": 5,
                    "modes": 2,
                    "courses": [[40, 0.02, 10], [20, 0.005, 20], [10, 0.002, 50]],
                },
            ),
        ),
        "poisson",
        40,
    ),
    "siemens": Case(
        "siemens-star-small.npz.bz2",
        "tike's Siemens star, far field: 516 frames of 128 x 128",
        # The file has neither; in the far field and with positions in pixels they only name the pitch.
        Overrides(1.409e-10, 1.92, 75e-6, None, far_field=True, zero_in_corner=True),
        (
            Contender("ours", "ours", {"modes": 1, "epochs": [4, 6, 10, 16]}),
            Contender("ours, from a disc", "ours", {"modes": 1, "epochs": [16], "diameter_m": 1.4e-6}),
            Contender(
                "pty-chi LSQML, as its tests", "ptychi", {"batch": 96, "epochs": 24, "every": 3, "positions": 0.1}
            ),
            Contender("pty-chi LSQML, tuned", "ptychi", {"batch": 24, "epochs": 12, "every": 2, "positions": 0.1}),
        ),
        "amplitude",
        70,
    ),
}


def data_file(name: str) -> Path:
    """A published file. Raises SystemExit where it is not."""
    path = Path(os.environ.get("PTYCHOSCOPE_DATA", "data")) / "ptychography" / name
    if not path.is_file():
        raise SystemExit(f"{path}: not there; set PTYCHOSCOPE_DATA to the folder of the published data")
    return path


# ---- Contenders, each in a process of its own ------------------------------------------------------------------------


def run_ours(case: Case, options: dict[str, Any], moments: Moments) -> None:
    """`ptychoscope calibrate FILE --epochs N` for several N."""
    import torch

    from app.calibration import bright_scan
    from recon.calibrate import calibrate, with_epochs
    from recon.device import keep_memory
    from recon.files.imports import read_probe

    torch.set_num_threads(1)
    keep_memory()
    path = data_file(case.file)
    for epochs in options["epochs"]:
        moments.begin = core_seconds()
        disc = options.get("diameter_m")
        scan, settings, _ = bright_scan(path, disc, 0, case.overrides, modes=options["modes"])
        with scan:
            settings = with_epochs(scan, settings, min(scan.geometry.shape), epochs)
            start = read_probe(path) if scan.geometry.far_field and disc is None else None
            found = calibrate(scan.load(), settings, probe=start)
        places = found.illumination.positions_m / scan.geometry.object_pixel_m
        whole = np.round(places)
        corner = whole.astype(np.int64) + len(found.object) // 2 - found.modes.shape[-1] // 2
        solution = {
            "object": found.object,
            "probe": found.modes,
            "corner": corner,
            "shift": places - whole,
            "weight": np.sqrt(found.flux),
            "background": np.full(scan.geometry.shape, found.background),
        }
        moments.keep(lambda solution=solution: solution)  # type: ignore[misc]
        print(f"{epochs} epochs, {moments.seconds[-1]:.1f} core-s, loss {found.loss[-1]:.4f}", flush=True)


def contend(case: str, contender: Contender, python: str, folder: Path) -> Path | str:
    """Solutions of one contender, computed unless they are there; in words why not instead."""
    out = folder / f"{case}-{contender.name.replace(' ', '-').replace(',', '')}.npz"
    if out.is_file():
        return out
    options = json.dumps(contender.options)
    command = [sys.executable, "-m", "benchmarks.realdata", "--run", case, str(out), options]
    if contender.program != "ours":
        if not python:
            return "not measured: no --peers"
        command = [python, str(PEERS_SCRIPT), contender.program, str(data_file(CASES[case].file)), str(out), options]
    threads = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=threads, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr[-2000:], file=sys.stderr)
    return out if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


# ---- Scores ----------------------------------------------------------------------------------------------------------


def measured(case: Case) -> Setup:
    """The frames as our importer reads them, and the geometry."""
    from recon.files.imports import read_any

    data = read_any(data_file(case.file), case.overrides)
    g = data.geometry
    return Setup(data.frames, data.mask, g.object_pixel_m, g.distance_m, g.wavelength_m, g.far_field)


@dataclass(frozen=True)
class Curve:
    """Scores of a contender's solutions over core-seconds, and its last solution."""

    seconds: NDArray[np.float64]
    scores: tuple[Score, ...]
    last: Solution

    def errors(self, kind: str) -> NDArray[np.float64]:
        return np.array([getattr(s, kind) for s in self.scores])

    def reaches(self, kind: str, error: float) -> float | None:
        """Core-seconds of the first solution that is as good; None if none is."""
        good = np.flatnonzero(self.errors(kind) <= error)
        return float(self.seconds[good[0]]) if len(good) else None


def curve_of(setup: Setup, path: Path, averaged: bool) -> Curve:
    """All solutions of a file, scored; `averaged`: the contender's model averages over the camera's pixels."""
    with np.load(path) as archive:
        found = [
            Solution(*(archive[f"{name}_{k}"] for name in NAMES), averaged=averaged)  # type: ignore[arg-type]
            for k in range(len(archive["seconds"]))
        ]
        return Curve(archive["seconds"], tuple(score(setup, s) for s in found), found[-1])


def rows_of(case: Case, curves: dict[str, Curve], failures: dict[str, str]) -> list[tuple[str, str, str]]:
    """Rows of the table: every curve, and core-seconds to the best of each peer."""
    rows = [(f"{case.title}; {name}", f"failed: {why}", "-") for name, why in failures.items()]
    for name, curve in curves.items():
        pairs = zip(curve.seconds, curve.scores, strict=True)
        text = "; ".join(f"{s.amplitude:.5f}, {s.poisson:.3f} at {t:.1f}" for t, s in pairs)
        rows.append((f"{case.title}; {name}: amplitude error, Poisson loss at core-s", text, "-"))
    ours = {c.name for c in case.contenders if c.program == "ours"} & curves.keys()
    for name, curve in curves.items():
        if name in ours:
            continue
        best = float(curve.errors(case.claim).min())
        theirs = curve.reaches(case.claim, best)
        for mine in sorted(ours):
            reached = curves[mine].reaches(case.claim, best)
            value = f"never ({curves[mine].errors(case.claim).min():.4g} at best)"
            if reached is not None and theirs is not None:
                value = f"{reached:.1f} against {theirs:.1f} core-s, {theirs / reached:.1f} times"
            what = f"{mine} to the best {case.claim} error of {name} ({best:.4g})"
            rows.append((f"{case.title}; {what}", value, "at most half of its core-seconds"))
    return rows


# ---- Pictures --------------------------------------------------------------------------------------------------------


def flat(solution: Solution) -> NDArray[np.complex128]:
    """The object with its ramp, phase and scale taken off, judged where it was lit."""
    lit = np.zeros(solution.object.shape)
    rows, columns = solution.probe.shape[-2:]
    light = (np.abs(solution.probe) ** 2).sum(0)
    for top, left in solution.corner:
        lit[top : top + rows, left : left + columns] += light
    lit = lit / lit.max() > 0.1
    obj = np.where(lit, solution.object, 0).astype(np.complex128)
    steps = [np.angle((obj[1:] * obj[:-1].conj()).sum()), np.angle((obj[:, 1:] * obj[:, :-1].conj()).sum())]
    y, x = np.indices(obj.shape)
    level = solution.object * np.exp(-1j * (steps[0] * y + steps[1] * x))
    # The commonest phase and the median amplitude become zero and one.
    return level / np.median(np.abs(level[lit])) * np.exp(-1j * np.angle(level[lit].sum()))


def draw(case: Case, curves: dict[str, Curve], pixel_m: float, path: Path) -> None:
    """Objects, probes and curves of ours and the first peer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    from app.drawing import complex_colours

    shown = [next(c.name for c in case.contenders if (c.program == "ours") is mine and c.name in curves)
             for mine in (True, False)]  # fmt: skip
    figure, axes = plt.subplots(2, 4, figsize=(16.5, 8.2), layout="constrained", width_ratios=(1, 1, 1, 1.15))
    for row, name in enumerate(shown):
        solution = curves[name].last
        obj = flat(solution)
        first = solution.corner.min(0) + case.view
        last = solution.corner.max(0) + np.array(solution.probe.shape[-2:]) - case.view
        view = obj[first[0] : last[0], first[1] : last[1]]
        extent = (0.0, view.shape[1] * pixel_m * 1e6, view.shape[0] * pixel_m * 1e6, 0.0)
        axes[row, 0].imshow(np.abs(view), cmap="gray", vmin=0.7, vmax=1.2, extent=extent)
        axes[row, 0].set_ylabel(name, fontsize=12)
        reach = float(np.percentile(np.abs(np.angle(view)), 98))
        axes[row, 1].imshow(np.angle(view), cmap="gray", vmin=-reach, vmax=reach, extent=extent)
        axes[row, 2].imshow(complex_colours(solution.probe[0]))
        error = curves[name].scores[-1]
        titles = ("object, amplitude (0.7 to 1.2)", f"object, phase (+-{reach:.2f} rad)", "probe, strongest mode")
        for place, title in zip(axes[row, :3], titles, strict=True):
            place.set(xticks=[], yticks=[])
            place.set_title(title, fontsize=10)
        axes[row, 1].set_xlabel(
            f"{curves[name].seconds[-1]:.0f} core-s: amplitude error {error.amplitude:.4f}, "
            f"Poisson loss {error.poisson:.2f}"
        )
    for place, kind, label in (
        (axes[0, 3], "amplitude", "amplitude error of all frames"),
        (axes[1, 3], "poisson", "Poisson loss (1: photon noise alone)"),
    ):
        for name, curve in curves.items():
            width = 2.5 if name.startswith("ours") else 1.2
            place.loglog(curve.seconds, curve.errors(kind), "o-", markersize=4, linewidth=width, label=name)
        place.set(xlabel="core-seconds (user + system, one thread)", ylabel=label)
        place.grid(visible=True, which="both", alpha=0.3)
        place.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*axes[0, 3].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), fontsize=10)
    figure.suptitle(case.title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def contest(name: str, python: str, folder: Path, figures: Path | None) -> list[tuple[str, str, str]]:
    """One case: all contenders, their scores, the picture."""
    case = CASES[name]
    curves: dict[str, Curve] = {}
    failures: dict[str, str] = {}
    setup = measured(case)
    for contender in case.contenders:
        found = contend(name, contender, python, folder)
        if isinstance(found, str):
            failures[contender.name] = found
        else:
            curves[contender.name] = curve_of(setup, found, contender.program == "ours" and not setup.far)
    if figures is not None and len({n.startswith("ours") for n in curves}) == 2:
        draw(case, curves, setup.pixel_m, figures / f"{name}.png")
    return rows_of(case, curves, failures)


def main() -> int:
    """Run the cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="", help="the Python of the peers' environment")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--keep", type=Path, help="folder for solutions; those that are there are taken as they are")
    parser.add_argument("--figures", type=Path, help="folder for pictures")
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    parser.add_argument("--note", default="", help="what else RESULTS.md is to say of the machine")
    parser.add_argument("--run", nargs=3, metavar=("CASE", "OUT", "OPTIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, out, options = arguments.run
        moments = Moments(out)
        with contextlib.redirect_stdout(sys.stderr):
            run_ours(CASES[name], json.loads(options), moments)
        return 0
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.only:
            rows += contest(name, arguments.peers, folder, arguments.figures)
    for row in rows:
        print(" | ".join(row))
    if arguments.write:
        from benchmarks.report import append_rows, machine

        made_on = machine("torch", "numpy", cores=1) + arguments.note
        append_rows("python -m benchmarks.realdata", rows, made_on)
    return 0


if __name__ == "__main__":
    sys.exit(main())
