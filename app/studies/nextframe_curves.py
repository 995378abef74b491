"""From walks to curves: how fast each order of the points comes to an image, and what it saves against the spiral's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from app.studies.curves import DRAWS, INTERVAL
from app.studies.nextframe import NextCase, Walk

BASELINE = "spiral"


@dataclass(frozen=True)
class Estimate:
    """A mean over objects and its 95 % bootstrap interval over them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64], chosen: NDArray[np.int64]) -> Estimate:
        """Of values (n,), with draws (DRAWS, n) of their numbers."""
        return cls.ratio(values, np.ones_like(values), chosen)

    @classmethod
    def ratio(cls, values: NDArray[np.float64], over: NDArray[np.float64], chosen: NDArray[np.int64]) -> Estimate:
        """Of the mean of values (n,) over the mean of others (n,)."""
        drawn = values[chosen].mean(1) / over[chosen].mean(1)
        low, high = np.percentile(drawn, INTERVAL)
        return cls(float(values.mean() / over.mean()), float(low), float(high))

    def text(self, form: str) -> str:
        """Mean (low to high)."""
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class OrderCurve:
    """One order of the points, against the photons spent.

    Attributes:
        order: its name.
        photons: (F,) spent after each frame.
        psnr32_db, sigma: (F,) means over objects and seeds.
        reached: (F,) share whose image has met the target by then.
        to_target: mean photons to the target; one that never met it counts as all that were spent, or more.
        missed: share that never met it.
        better_db: mean over the frames of psnr32 less that of the spiral's order; None for that one.
        saved: share of the spiral's photons to the target that this order spares; None likewise.
        choosing_s, estimating_s: CPU seconds a frame.
        points: (walks, F) where the frames were taken.
    """

    order: str
    photons: NDArray[np.float64]
    psnr32_db: NDArray[np.float64]
    sigma: NDArray[np.float64]
    reached: NDArray[np.float64]
    to_target: Estimate
    missed: float
    better_db: Estimate | None
    saved: Estimate | None
    choosing_s: float
    estimating_s: float
    points: NDArray[np.int64]

    def summary(self) -> dict[str, object]:
        """As the command reports it."""
        values: dict[str, object] = {
            name: getattr(self, name) for name in ("order", "missed", "choosing_s", "estimating_s")
        }
        for name in ("photons", "psnr32_db", "sigma", "reached"):
            values[name] = getattr(self, name).tolist()
        for name in ("to_target", "better_db", "saved"):
            found: Estimate | None = getattr(self, name)
            values[name] = None if found is None else asdict(found)
        return values


def first_reached(walk: Walk, sigma: float) -> int | None:
    """Number of the frame after which a walk has met the target, from 1; None where it never does."""
    met = [good and deviation <= sigma for good, deviation in zip(walk.recovered, walk.sigma, strict=True)]
    return met.index(True) + 1 if any(met) else None


def order_curves(found: Sequence[tuple[NextCase, Walk]], sigma: float) -> list[OrderCurve]:
    """A curve an order, over the objects and seeds that all of them have."""
    by_order: dict[str, dict[tuple[str, int], Walk]] = {}
    for case, walk in found:
        by_order.setdefault(case.order, {})[case.object, case.seed] = walk
    if not by_order:
        return []
    common = sorted(set.intersection(*(set(walks) for walks in by_order.values())))
    if not common:
        return []
    photons = np.arange(1, found[0][0].frames + 1, dtype=np.float64) * found[0][0].photons
    # An object's seeds are drawn together: they are no further objects.
    objects = sorted({name for name, _ in common})
    draws = np.random.default_rng(0).integers(len(objects), size=(DRAWS, len(objects)))

    def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(objects,) means over seeds of values (walks,)."""
        return np.array([values[[name == other for name, _ in common]].mean() for other in objects])

    psnr = {order: np.array([walks[key].psnr32_db for key in common]) for order, walks in by_order.items()}
    spent, reached = {}, {}
    for order, walks in by_order.items():
        frames = [first_reached(walks[key], sigma) for key in common]
        reached[order] = np.array([np.arange(1, len(photons) + 1) >= (n or np.inf) for n in frames])
        spent[order] = averaged(np.array([photons[(n or len(photons)) - 1] for n in frames]))
    curves = []
    for order, walks in by_order.items():
        chosen = [walks[key] for key in common]
        compared = BASELINE in by_order and order != BASELINE
        better = saved = None
        if compared:
            better = Estimate.of(averaged((psnr[order] - psnr[BASELINE]).mean(1)), draws)
            saved = Estimate.ratio(spent[BASELINE] - spent[order], spent[BASELINE], draws)
        frames_in_all = len(chosen) * len(photons)
        curves.append(
            OrderCurve(
                order,
                photons,
                psnr[order].mean(0),
                np.array([walk.sigma for walk in chosen]).mean(0),
                reached[order].mean(0),
                Estimate.of(spent[order], draws),
                float(1 - reached[order][:, -1].mean()),
                better,
                saved,
                sum(walk.choosing_s for walk in chosen) / frames_in_all,
                sum(walk.estimating_s for walk in chosen) / frames_in_all,
                np.array([walk.points for walk in chosen]),
            )
        )
    return curves


def order_rows(curves: Sequence[OrderCurve]) -> list[dict[str, object]]:
    """A row for every frame of every order."""
    return [
        {
            "order": curve.order,
            "frame": k + 1,
            "photons": float(photons),
            "psnr32_db": round(float(curve.psnr32_db[k]), 3),
            "sigma": round(float(curve.sigma[k]), 4),
            "reached": round(float(curve.reached[k]), 4),
        }
        for curve in curves
        for k, photons in enumerate(curve.photons)
    ]


def order_table(curves: Sequence[OrderCurve], sigma: float) -> str:
    """For a terminal and a text file: the orders frame by frame, then what each needs and saves."""
    lines = []
    for title, name, form in (
        ("mean PSNR32, dB", "psnr32_db", "9.2f"),
        ("mean deviation", "sigma", "9.4f"),
        (f"recovered and deviation at most {sigma:g}", "reached", "9.0%"),
    ):
        lines += [title, f"  {'photons':>8}" + "".join(f"{curve.order:>11}" for curve in curves)]
        for k, photons in enumerate(curves[0].photons):
            values = "".join(f"  {getattr(curve, name)[k]:{form}}" for curve in curves)
            lines.append(f"  {photons:>8g}{values}")
        lines.append("")
    lines.append(f"photons to the target over {len(curves[0].points)} scans; those that miss it count with all photons")
    for curve in curves:
        line = f"  {curve.order:<10} {curve.to_target.text('.0f')}, {curve.missed:.0%} missed it"
        if curve.saved is not None and curve.better_db is not None:
            line += f"; saved {curve.saved.text('.0%')}; PSNR32 {curve.better_db.text('+.2f')} dB on the way"
        lines.append(
            line + f"; CPU {curve.choosing_s:.2f} s to choose and {curve.estimating_s:.1f} s to follow a frame"
        )
    return "\n".join(lines) + "\n"
