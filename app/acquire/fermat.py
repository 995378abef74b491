"""The Fermat spiral: where the illumination goes, how much it overlaps, and in which order to visit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

GOLDEN_ANGLE = np.pi * (3.0 - np.sqrt(5.0))
_IMPROVED_TOURS = 6
_NO_GAIN_M = 1e-15


@dataclass(frozen=True)
class Overlaps:
    """Three ways to say how much neighbouring illuminations share, each 1 for the same place and at most 1.

    Attributes:
        linear_mean: 1 - mean nearest-neighbour distance / diameter.
        linear_worst: 1 - largest nearest-neighbour distance / diameter.
        area: mean over the points of the area shared with the nearest neighbour's disc, over the disc's area.
    """

    linear_mean: float
    linear_worst: float
    area: float


def spiral(count: int, spacing_m: float) -> NDArray[np.float64]:
    """(count, 2) points (y, x), metres: r_n = c sqrt(n), theta_n = n pi (3 - sqrt 5), n = 1 .. count, c = spacing_m."""
    n = np.arange(1, count + 1)
    radius, angle = spacing_m * np.sqrt(n), n * GOLDEN_ANGLE
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def nearest_distances(points_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) distance of each point to its nearest neighbour, metres; empty for fewer than two points."""
    if len(points_m) < 2:
        return np.zeros(0)
    distances, _ = cKDTree(points_m).query(points_m, k=2)
    return np.asarray(distances)[:, 1]


def spacing_for_overlap(count: int, diameter_m: float, overlap: float) -> float:
    """The spiral's c, metres, at which 1 - mean nearest-neighbour distance / diameter is the overlap asked for.

    Solved by bisection on the measured mean; a single point has no neighbour and gets (1 - overlap) diameter.
    """
    wanted = (1.0 - overlap) * diameter_m
    if count < 2:
        return wanted
    low, high = 0.0, 2.0 * wanted
    while nearest_distances(spiral(count, high)).mean() < wanted:
        high *= 2.0
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if nearest_distances(spiral(count, middle)).mean() < wanted:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def overlaps(points_m: NDArray[np.float64], diameter_m: float) -> Overlaps | None:
    """The three overlaps of (N, 2) points under a disc of this diameter; None for fewer than two points."""
    nearest = nearest_distances(points_m)
    if len(nearest) == 0:
        return None
    d = np.minimum(nearest / diameter_m, 1.0)
    shared = (2.0 / np.pi) * (np.arccos(d) - d * np.sqrt(1.0 - d * d))
    return Overlaps(
        linear_mean=float(1.0 - nearest.mean() / diameter_m),
        linear_worst=float(1.0 - nearest.max() / diameter_m),
        area=float(shared.mean()),
    )


def path_length(points_m: NDArray[np.float64]) -> float:
    """Length of the open path through (N, 2) points as they come, metres."""
    return float(np.hypot(*np.diff(points_m, axis=0).T).sum())


def visiting_order(points_m: NDArray[np.float64]) -> NDArray[np.intp]:
    """(N,) order of a short open path: nearest neighbour from every start, the best of them improved by 2-opt."""
    # A plan is made again and again while somebody thinks about it, and the order takes seconds for many points.
    return np.array(_visiting_order(np.ascontiguousarray(points_m, np.float64).tobytes()), np.intp)


@lru_cache(maxsize=16)
def _visiting_order(points: bytes) -> tuple[int, ...]:
    points_m = np.frombuffer(points, np.float64).reshape(-1, 2)
    count = len(points_m)
    if count < 3:
        return tuple(range(count))
    distance = cdist(points_m, points_m)
    starts = [_nearest_neighbour(distance, start) for start in range(count)]
    starts.sort(key=lambda order: _length(distance, order))
    improved = [_two_opt(distance, order) for order in starts[:_IMPROVED_TOURS]]
    return tuple(int(k) for k in min(improved, key=lambda order: _length(distance, order)))


def every_kth(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` indices of the unordered spiral, every k-th of `count` with k = count // wanted: the k-th, 2k-th, ..."""
    if wanted == 0:
        return ()
    step = count // wanted
    return tuple(range(step - 1, step * wanted, step))


def _length(distance: NDArray[np.float64], order: NDArray[np.intp]) -> float:
    return float(distance[order[:-1], order[1:]].sum())


def _nearest_neighbour(distance: NDArray[np.float64], start: int) -> NDArray[np.intp]:
    open_points = distance.copy()
    order = [start]
    for _ in range(len(distance) - 1):
        open_points[:, order[-1]] = np.inf
        order.append(int(np.argmin(open_points[order[-1]])))
    return np.array(order, np.intp)


def _two_opt(distance: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Reverse the stretch whose reversal saves most until none saves anything; the ends are free."""
    count = len(order)
    order = order.copy()
    first, last = np.triu_indices(count, 1)
    while True:
        # Reversing order[first..last] replaces the links before `first` and after `last`, where there are any.
        steps = distance[order[:-1], order[1:]]
        before = np.where(first > 0, steps[first - 1], 0.0)
        after = np.where(last < count - 1, steps[np.minimum(last, count - 2)], 0.0)
        new_before = np.where(first > 0, distance[order[first - 1], order[last]], 0.0)
        new_after = np.where(last < count - 1, distance[order[first], order[np.minimum(last + 1, count - 1)]], 0.0)
        gain = before + after - new_before - new_after
        best = int(np.argmax(gain))
        if gain[best] <= _NO_GAIN_M:
            return order
        a, b = first[best], last[best]
        order[a : b + 1] = order[a : b + 1][::-1]
