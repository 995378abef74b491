"""From cases to curves: means over objects, and the dose at which half, or nine tenths, of them succeed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from app.studies.cases import Case, Outcome

DRAWS = 400
"""Bootstrap draws of objects."""
INTERVAL = (2.5, 97.5)
"""Percentiles of the intervals."""
LOOSENESS = 10.0
"""Standard deviation of the logistic slope's prior, per decade: all-or-nothing data have a finite fit."""
STEPS = 60


@dataclass(frozen=True)
class Dose:
    """A dose and its 95 % interval over objects, photons per exposure.

    Attributes:
        photons: None where it is not reached at the brightest exposure of the grid; the darkest where it is there.
        low, high: None likewise.
        at_most: whether `photons` is the darkest exposure, an upper bound.
    """

    photons: float | None
    low: float | None
    high: float | None
    at_most: bool = False


@dataclass(frozen=True)
class Curve:
    """One method with one decoder at one read noise, against photons per exposure.

    Attributes:
        method, decoder, read_noise: which.
        photons: (P,) ascending.
        psnr_db, psnr32_db: (P,) means over objects and seeds.
        band_db: (P, 2) 16th and 84th percentile over objects of the seeds' mean PSNR.
        success: (P,) share.
        seconds: (P,) mean.
        count: (P,) cases.
        dose50, dose90: see `Dose`.
    """

    method: str
    decoder: str
    read_noise: float
    photons: NDArray[np.float64]
    psnr_db: NDArray[np.float64]
    psnr32_db: NDArray[np.float64]
    band_db: NDArray[np.float64]
    success: NDArray[np.float64]
    seconds: NDArray[np.float64]
    count: NDArray[np.int64]
    dose50: Dose
    dose90: Dose

    def summary(self) -> dict[str, object]:
        """As the command reports it."""
        return {
            "method": self.method,
            "decoder": self.decoder or None,
            "read_noise": self.read_noise,
            "photons": self.photons.tolist(),
            "psnr_db": self.psnr_db.tolist(),
            "psnr32_db": self.psnr32_db.tolist(),
            "success": self.success.tolist(),
            "seconds": self.seconds.tolist(),
            "count": self.count.tolist(),
            "dose50": self.dose50.photons,
            "dose50_interval": [self.dose50.low, self.dose50.high],
            "dose50_at_most": self.dose50.at_most,
            "dose90": self.dose90.photons,
            "dose90_interval": [self.dose90.low, self.dose90.high],
            "dose90_at_most": self.dose90.at_most,
        }


def logistic_fit(decades: NDArray, weight: NDArray, successes: NDArray) -> tuple[float, float]:
    """Midpoint in decades and slope per decade of success, `successes` (n,) of `weight` (n,) tries at `decades` (n,).

    Newton's method on the binomial likelihood under a wide normal prior of the slope; a slope of zero or below is
    returned as found.
    """
    centre = float(decades.mean())
    x = np.stack([np.ones_like(decades), decades - centre], 1)
    share = float(np.clip(successes.sum() / max(weight.sum(), 1e-9), 0.01, 0.99))
    beta = np.array([logit(share), 1.0])
    prior = np.diag([1e-4, LOOSENESS**-2])

    def value(at: NDArray) -> float:
        eta = x @ at
        return float((successes * eta - weight * np.logaddexp(0, eta)).sum() - 0.5 * at @ prior @ at)

    for _ in range(STEPS):
        p = expit(x @ beta)
        gradient = x.T @ (successes - weight * p) - prior @ beta
        step = np.linalg.solve((x * (weight * p * (1 - p))[:, None]).T @ x + prior, gradient)
        for _ in range(STEPS):
            if value(beta + step) >= value(beta) - 1e-12:
                break
            step = step / 2
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            break
    return (centre - float(beta[0] / beta[1]) if beta[1] != 0 else np.inf), float(beta[1])


def dose_at(photons: NDArray, weight: NDArray, successes: NDArray, share: float) -> float:
    """Photons at which the fitted success is `share`; the darkest exposure at least.

    Infinite where the grid ends before, or where no exposure's own success is that high: a logistic curve would reach
    any share, a method that levels off does not.
    """
    decades = np.log10(photons)
    tried = weight > 0
    if (successes[tried] / weight[tried]).max() < share:
        return np.inf
    if successes.sum() >= weight.sum():
        return float(photons[tried].min())
    middle, slope = logistic_fit(decades[tried], weight[tried], successes[tried])
    if slope <= 0:
        return np.inf
    found = middle + float(logit(share)) / slope
    if found > decades[tried].max() + 1e-9:
        return np.inf
    return float(10 ** max(found, decades[tried].min()))


def dose(photons: NDArray, success: NDArray, share: float, seed: int = 0) -> Dose:
    """From successes (objects, P) as shares over seeds, NaN where a case is missing; objects are drawn anew."""
    known = np.isfinite(success)
    filled = np.where(known, success, 0.0)

    def of(chosen: NDArray) -> float:
        return dose_at(photons, known[chosen].sum(0).astype(float), filled[chosen].sum(0), share)

    best = of(np.arange(len(success)))
    rng = np.random.default_rng(seed)
    draws = np.array([of(rng.integers(len(success), size=len(success))) for _ in range(DRAWS)])
    # Percentiles among values some of which are infinite: by rank.
    low, high = (float(np.sort(draws)[min(len(draws) - 1, int(q / 100 * len(draws)))]) for q in INTERVAL)
    finite = [v if np.isfinite(v) else None for v in (best, low, high)]
    return Dose(finite[0], finite[1], finite[2], bool(best <= photons.min()))


def make_curves(cases: Sequence[Case], outcomes: dict[str, Outcome]) -> list[Curve]:
    """A curve for every method, decoder and read noise among the finished cases, in the order of `cases`."""
    groups: dict[tuple[str, str, float], list[tuple[Case, Outcome]]] = {}
    for case in cases:
        group = groups.setdefault((case.method, case.decoder, case.frames.read_noise), [])
        if case.key in outcomes:
            group.append((case, outcomes[case.key]))
    return [_curve(*name, found) for name, found in groups.items() if found]


def _curve(method: str, decoder: str, read_noise: float, found: list[tuple[Case, Outcome]]) -> Curve:
    photons = np.array(sorted({case.frames.photons for case, _ in found}))
    objects = sorted({case.frames.object for case, _ in found})

    def table(name: str) -> NDArray[np.float64]:
        """(objects, P) means over seeds."""
        total, count = np.zeros((len(objects), len(photons))), np.zeros((len(objects), len(photons)))
        for case, outcome in sorted(found, key=lambda pair: pair[0].key):
            place = objects.index(case.frames.object), int(np.searchsorted(photons, case.frames.photons))
            total[place] += float(getattr(outcome, name))
            count[place] += 1
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    psnr, success = table("psnr_db"), table("success")
    count = np.array([sum(case.frames.photons == p for case, _ in found) for p in photons])
    return Curve(
        method,
        decoder,
        read_noise,
        photons,
        np.nanmean(psnr, 0),
        np.nanmean(table("psnr32_db"), 0),
        np.nanpercentile(psnr, [16, 84], axis=0).T,
        np.nanmean(success, 0),
        np.nanmean(table("seconds"), 0),
        count,
        dose(photons, success, 0.5),
        dose(photons, success, 0.9),
    )


def rows(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """A row for every point of every curve."""
    return [
        {
            "method": curve.method,
            "decoder": curve.decoder,
            "read_noise": curve.read_noise,
            "photons": float(photons),
            "psnr_db": round(float(curve.psnr_db[k]), 3),
            "psnr_db_16": round(float(curve.band_db[k, 0]), 3),
            "psnr_db_84": round(float(curve.band_db[k, 1]), 3),
            "psnr32_db": round(float(curve.psnr32_db[k]), 3),
            "success": round(float(curve.success[k]), 4),
            "seconds": round(float(curve.seconds[k]), 3),
            "count": int(curve.count[k]),
        }
        for curve in curves
        for k, photons in enumerate(curve.photons)
    ]


def text_table(curves: Sequence[Curve]) -> str:
    """For a terminal and a text file: each curve's points, then its doses."""
    lines = []
    for curve in curves:
        name = curve.method + (f" ({curve.decoder})" if curve.decoder else "")
        lines.append(f"{name}, read noise {curve.read_noise:g} e-")
        names = f"{'PSNR':>7} {'16..84 %':>13} {'PSNR32':>7} {'success':>8} {'s':>8} {'cases':>6}"
        lines.append(f"  {'photons':>9} {names}")
        for k, photons in enumerate(curve.photons):
            band = f"{curve.band_db[k, 0]:.1f}..{curve.band_db[k, 1]:.1f}"
            lines.append(
                f"  {photons:>9.6g} {curve.psnr_db[k]:>7.2f} {band:>13} {curve.psnr32_db[k]:>7.2f} "
                f"{curve.success[k]:>8.1%} {curve.seconds[k]:>8.2f} {curve.count[k]:>6d}"
            )
        brightest = float(curve.photons[-1])
        for label, value in (("dose50", curve.dose50), ("dose90", curve.dose90)):
            lines.append(f"  {label}: {_dose_text(value, brightest)}")
        lines.append("")
    return "\n".join(lines)


def _dose_text(value: Dose, brightest: float) -> str:
    def one(photons: float | None) -> str:
        return f"above {brightest:.6g}" if photons is None else f"{photons:.3g}"

    bound = "at most " if value.at_most else ""
    return f"{bound}{one(value.photons)} photons (95 % over objects: {one(value.low)} to {one(value.high)})"
