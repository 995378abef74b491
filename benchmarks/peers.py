"""Ours, pty-chi, cdtools and PtyLab side by side on one simulated near-field scan, error against core-seconds.

    python -m benchmarks.peers --peers /tmp/peers/bin/python [--seeds 1 2 3] [--write] [--figure docs/images/peers.png]

96 frames of 256 x 256 at sub-pixel positions (561 nm, 13.8 um, 65 mm, below the frame's critical distance, so that a
plain angular spectrum is right too), a beam of 2 mm, so that light fills the frame and nobody gains by cropping. The
scan comes from `benchmarks.scans`, whose optics none of the contenders uses. All start from the same soft disc, a
uniform object and the nominal positions (1 px rms wrong after the best similarity) and have probe, object and positions
free. The peers are told the true distance, which none of them refines here; ours starts 2 mm short and finds it.

One thread each; time is user + system of the contender's process from its first call on, imports left out, checkpoints
not charged. The error is metrics.md's: norm(g O_est - O)/norm(O) over the central field after the best shift and
complex scale; nothing else is removed. A contender may have several settings: what counts at a time is the best error
that any of them has reached by then. The settings are the best of a grid tried on another seed (`--try`). Runs are
interleaved: every setting once, then the next seed.

A peer runs in its own Python, told by `--peers`: see "Peers" in README.md beside this file. `--keep FILE` notes every
run as it ends and does not repeat those that it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.objecterror import peers_error

DIAMETER_M = 2e-3
DISTANCE_ERROR_M = 2e-3
OUR_JOINT, OUR_EPOCHS = (4, 8, 14, 24), (5, 8, 12, 20, 32, 46)
AS_IT_COMES = "ours, default settings"
ERRORS = (0.20, 0.15, 0.12, 0.10, 0.08, 0.07, 0.06, 0.05)
SECONDS = (3, 5, 10, 20, 40, 80)
CLAIM = 2.0
CENTRAL = 0.6
"""Half side of the scored square over the farthest coordinate of a position."""


@dataclass(frozen=True)
class Setting:
    """A package and how it runs: `options` for its runner in `benchmarks.contenders`; `line` names its curve."""

    package: str
    options: dict[str, Any]
    line: str = ""

    @property
    def curve(self) -> str:
        return self.line or self.package

    @property
    def text(self) -> str:
        return json.dumps(self.options, sort_keys=True)


SETTINGS: tuple[Setting, ...] = (
    *(
        Setting("ours", {"settings": {"warm_epochs": 2, "joint_epochs": n, "full_epochs": 0, "probe_rate": 0.06}})
        for n in OUR_JOINT
    ),
    *(Setting("ours", {"epochs": n}, AS_IT_COMES) for n in OUR_EPOCHS),
    Setting("cdtools", {"rate": 0.06, "position_factor": 1.0, "anneal": True, "marks": [*range(2, 25, 2)]}),
    Setting(
        "pty-chi",
        {
            "kind": "AD",
            "rate": 0.06,
            "position_rate": 0.05,
            "positions_from": 0,
            "anneal": True,
            "marks": [2, 4, 6, 8, 10, 12, 14, 16],
        },
    ),
    Setting("PtyLab", {"engine": "mPIE", "marks": [1, 2, 4, 8, 16]}),
    Setting("cdtools", {"rate": 0.06, "position_factor": 1.0, "anneal": True, "marks": [2, 4, 6, 8, 10, 12]}),
    Setting("PtyLab", {"engine": "mPIE", "finer": 2, "marks": [4, 8]}),
)
"""Those that the comparison runs: for each package the best of the grid, and what is best early or late."""
STRONGER = {"betaObject": 0.5, "betaProbe": 0.5}
GRID: tuple[Setting, ...] = (
    *SETTINGS,
    *(Setting("cdtools", {"rate": r, "position_factor": 1.0, "marks": [2, 4, 8]}) for r in (0.02, 0.04)),
    Setting("pty-chi", {"kind": "AD", "rate": 0.02, "position_rate": 0.02, "positions_from": 0, "marks": [4, 8]}),
    Setting("pty-chi", {"kind": "LSQML", "batch": 4, "marks": [2, 4, 8]}),
    Setting("pty-chi", {"kind": "LSQML", "batch": 4, "positions_from": 99, "marks": [4, 10]}),
    Setting("pty-chi", {"kind": "LSQML", "batch": 12, "marks": [4, 8]}),
    Setting("pty-chi", {"kind": "rPIE", "batch": 1, "alpha": [0.1, 0.1], "marks": [2, 4]}),
    Setting("PtyLab", {"engine": "mPIE", "positions": False, "marks": [2, 4, 8, 12]}),
    Setting("PtyLab", {"engine": "mPIE", "set": STRONGER, "marks": [2, 4, 8, 12]}),
    Setting("PtyLab", {"engine": "mPIE", "set": {"betaObject": 0.25, "betaProbe": 0.1}, "marks": [2, 4, 8, 12]}),
    Setting("PtyLab", {"engine": "ePIE", "marks": [2, 4, 8, 16]}),
    Setting("PtyLab", {"engine": "mqNewton", "marks": [2, 4]}),
    Setting("PtyLab", {"engine": "zPIE", "distance": "nominal_distance", "marks": [4, 8]}),
)

Curve = list[tuple[float, float]]
"""(core-seconds, error), in the order of time."""


def make_scan(seed: int, path: Path) -> tuple[np.ndarray, int]:
    """Write the scan for all contenders; returns the true object and the radius (px) of the scored square."""
    from benchmarks.scans import simulate, small_bench

    bench = replace(small_bench(), diameter_m=DIAMETER_M)
    scan = simulate(bench, distance_error_m=DISTANCE_ERROR_M, position_rms_m=bench.pixel_m, seed=seed)
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
        diameter=bench.diameter_m,
        variance=float(data.dark_variance[0, 0]),
    )
    return scan.object, int(CENTRAL * np.abs(scan.positions_m).max() / bench.pixel_m)


def contend(setting: Setting, python: str, scan: Path, out: Path) -> tuple[list[tuple[float, np.ndarray]], dict] | str:
    """One run in its own process; why it failed, in words, instead."""
    # Freed memory is kept for the next array, as `recon.device.keep_memory` does for ours: the same for all.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    file = Path(__file__).with_name("contenders.py")
    program = ["-m", "benchmarks.contenders"] if setting.package == "ours" else [str(file)]
    command = [python, *program, setting.package, setting.text, str(scan), str(out)]
    environment = {**os.environ, **one, **memory, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    with np.load(out) as archive:
        notes = json.loads(str(archive["notes"]))
        return [(float(t), archive[f"object_{k}"]) for k, t in enumerate(archive["seconds"])], notes


def measure(setting: Setting, python: str, scan: Path, truth: np.ndarray, radius: int) -> dict[str, Any]:
    """One run and its scores, ready for JSON."""
    with tempfile.TemporaryDirectory() as folder:
        found = contend(setting, python, scan, Path(folder) / "out.npz")
    run: dict[str, Any] = {"package": setting.package, "options": setting.text}
    if isinstance(found, str):
        return run | {"failed": found}
    results, notes = found
    run["curve"] = [(t, peers_error(obj, truth, radius)) for t, obj in results]
    run["without_ramp"] = peers_error(results[-1][1], truth, radius, ramp=True)
    return run | {"notes": notes}


def envelope(curves: list[Curve]) -> Curve:
    """The best error that any of several runs has reached by a time."""
    best, out = float("inf"), []
    for t, e in sorted(point for curve in curves for point in curve):
        if e < best:
            best = e
            out.append((t, e))
    return out


def seconds_to(curve: Curve, error: float) -> float | None:
    """Core-seconds until a curve first reaches an error, interpolated in both logarithms; None if it never does."""
    for k, (t, e) in enumerate(curve):
        if e <= error:
            if k == 0:
                return t
            t0, e0 = curve[k - 1]
            share = (np.log(e0) - np.log(error)) / max(np.log(e0) - np.log(e), 1e-12)
            return float(np.exp(np.log(t0) + share * (np.log(t) - np.log(t0))))
    return None


def error_at(curve: Curve, seconds: float) -> float | None:
    """Error that a curve has reached by then, interpolated in both logarithms; None before its first point."""
    if not curve or seconds < curve[0][0]:
        return None
    t, e = zip(*curve, strict=True)
    return float(np.exp(np.interp(np.log(seconds), np.log(t), np.log(e))))


def middle(values: list[float | None]) -> float | None:
    """Median over seeds; None where half of them or more have no value."""
    known = sorted(v for v in values if v is not None)
    return median(known + [float("inf")] * (len(values) - len(known))) if 2 * len(known) > len(values) else None


def _said(value: float | None, form: str) -> str:
    return "-" if value is None or not np.isfinite(value) else format(value, form)


def rows_of(curves: dict[int, dict[str, Curve]]) -> list[tuple[str, str, str]]:
    """(quantity, measured, claim) of all seeds' curves by package."""
    seeds, packages = sorted(curves), list(dict.fromkeys(p for by in curves.values() for p in by))
    rows = []
    for error in ERRORS:
        parts = []
        for package in packages:
            each = [seconds_to(curves[s][package], error) for s in seeds if package in curves[s]]
            shown = "/".join(_said(v, ".1f") for v in each)
            parts.append(f"{package} {_said(middle(each), '.1f')} ({shown})")
        rows.append((f"core-seconds to an error of {error:.2f}, median (seeds)", "; ".join(parts), "-"))
    for seconds in SECONDS:
        parts = []
        for package in packages:
            each = [error_at(curves[s][package], seconds) for s in seeds if package in curves[s]]
            shown = "/".join(_said(v, ".3f") for v in each)
            parts.append(f"{package} {_said(middle(each), '.3f')} ({shown})")
        rows.append((f"error at {seconds} core-seconds, median (seeds)", "; ".join(parts), "-"))
    peers = [p for p in packages if p not in {"ours", AS_IT_COMES}]
    for own_name in [p for p in packages if p not in peers] if peers else []:
        ratios = []
        for seed in seeds:
            own = curves[seed].get(own_name, [])
            best = min(((e, t, p) for p in peers for t, e in curves[seed].get(p, [])), default=None)
            if own and best is not None:
                ours = seconds_to(own, best[0])
                ratios.append((best[1] / ours if ours else 0.0, best, ours))
        if not ratios:
            continue
        parts = [
            f"{_said(ours, '.1f')} against {t:.1f} ({p}, {e:.3f}): "
            + (f"{ratio:.1f} times" if ratio else "never reached")
            for ratio, (e, t, p), ours in ratios
        ]
        rows.append(
            (
                f"core-seconds to the best error of any peer, {own_name} against its own; median of the ratios",
                "; ".join(parts)
                + (f"; median {median(r for r, _, _ in ratios):.1f} times" if all(r for r, _, _ in ratios) else ""),
                f"at least {CLAIM:.0f} times",
            )
        )
    return rows


def draw(curves: dict[int, dict[str, Curve]], path: Path) -> None:
    """Error against core-seconds: one line per package, thin ones for the seeds, a thick one for their median."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    figure, axes = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
    seeds, packages = sorted(curves), list(dict.fromkeys(p for by in curves.values() for p in by))
    for number, package in enumerate(packages):
        colour = f"C{number}"
        each = [curves[s][package] for s in seeds if package in curves[s]]
        for curve in each:
            if curve:
                axes.loglog(*zip(*curve, strict=True), color=colour, lw=0.7, alpha=0.5)
        times = np.geomspace(min(c[0][0] for c in each if c), max(c[-1][0] for c in each if c), 60)
        middles = [(t, middle([error_at(c, t) for c in each])) for t in times]
        known = [(t, e) for t, e in middles if e is not None and np.isfinite(e)]
        axes.loglog(*zip(*known, strict=True), color=colour, lw=2.2, label=package)
    axes.set_xlabel("core-seconds, one thread")
    axes.set_ylabel("error of the object, norm(g O - O_true)/norm(O_true)")
    for axis, ticks in ((axes.yaxis, (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)), (axes.xaxis, (1, 3, 10, 30, 100))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_title(
        "96 frames of 256 x 256; probe, object and positions unknown to all,\n"
        "distance 2 mm wrong for ours, true for the others",
        fontsize=10,
    )
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def versions(python: str) -> str:
    """Of the peers, as their Python knows them."""
    names = ("ptychi", "cdtools-py", "ptylab")
    code = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def load(path: Path | None) -> list[dict[str, Any]]:
    """Runs that a file holds, one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []


def main() -> int:
    """Run what is asked for, tell, compare; 1 when the claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="", help="the Python of the peers' environment")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--only", nargs="*", default=["ours", "pty-chi", "cdtools", "PtyLab"])
    parser.add_argument("--try", dest="grid", action="store_true", help="the grid of settings instead, on seed 0")
    parser.add_argument("--keep", type=Path, help="file of runs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run later than that")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    arguments = parser.parse_args()
    begin = time.monotonic()
    runs = load(arguments.keep)
    done = {(run["seed"], run["package"], run["options"]) for run in runs}
    settings = [s for s in (GRID if arguments.grid else SETTINGS) if s.package in arguments.only]
    seeds = [0] if arguments.grid else arguments.seeds
    with tempfile.TemporaryDirectory() as temporary:
        for seed in seeds:
            missing = [s for s in settings if (seed, s.package, s.text) not in done]
            if not missing:
                continue
            path = Path(temporary) / f"scan{seed}.npz"
            truth, radius = make_scan(seed, path)
            for setting in missing:
                if time.monotonic() - begin > 60 * arguments.minutes:
                    break
                python = sys.executable if setting.package == "ours" else arguments.peers
                if not python:
                    runs.append({"seed": seed, "package": setting.package, "failed": "not measured: no --peers"})
                    continue
                run = {"seed": seed} | measure(setting, python, path, truth, radius)
                runs.append(run)
                said = run.get("failed") or " ".join(f"{e:.4f} at {t:.1f}" for t, e in run["curve"])
                print(f"seed {seed} {setting.package} {setting.text}: {said} {run.get('notes', '')}", flush=True)
                if arguments.keep:
                    with arguments.keep.open("a") as file:
                        file.write(json.dumps(run) + "\n")
    if arguments.grid:
        return 0
    named = {(s.package, s.text): s.curve for s in settings}
    curves: dict[int, dict[str, Curve]] = {seed: {} for seed in seeds}
    for seed in seeds:
        for name in dict.fromkeys(named.values()):
            each = [
                r["curve"]
                for r in runs
                if r["seed"] == seed and named.get((r["package"], r.get("options"))) == name and "curve" in r
            ]
            if each:
                curves[seed][name] = envelope(each)
    rows = [
        (f"{r['package']} {r.get('options', '')}, seed {r['seed']}", f"failed: {r['failed']}", "-")
        for r in runs
        if "failed" in r
    ]
    rows += rows_of(curves)
    for row in rows:
        print(" | ".join(row))
    if arguments.figure and any(curves.values()):
        draw(curves, arguments.figure)
    if arguments.write:
        from benchmarks.report import append_rows, machine

        where = machine("torch", "numpy", cores=1)
        if arguments.peers:
            where += f", {versions(arguments.peers)}"
        append_rows("python -m benchmarks.peers", rows, f"{where}; load {os.getloadavg()[2]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
