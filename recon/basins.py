"""What a sampled loss landscape is like for whoever descends it: minima, basin, conditioning, curvature, plateaus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEEP_NATS = 1.0
"""Barrier above a minimum from which on it counts as deep: below, the data themselves hardly tell it from its rim."""
LEVEL = 0.1
"""Share of the mean slope below which a place is a plateau; a round bowl has 0.5 % of its square there."""
NEIGHBOURS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
FIT = 2
"""Points each way from the optimum that its Hessian is fitted to."""


@dataclass(frozen=True)
class Shape:
    """Measures of a landscape (n, m) in one pair of units.

    Attributes:
        optimum: (row, column) of the smallest value.
        minima: points inside the grid lower than all eight neighbours, the optimum among them.
        deep_minima: those with a barrier of `DEEP_NATS` or more to any lower point; the optimum counts.
        basin: share of the area from which steepest descent on the grid ends at the optimum.
        condition: ratio of the Hessian's eigenvalues at the optimum, from a quadratic through 5 x 5 points; NaN where
            the optimum lies too near the edge or is no minimum of the fit.
        bent_down: share of the area where the surface curves downwards in some direction (is not convex).
        plateau: share of the area whose slope is below a tenth of the mean slope.
        depth: largest less smallest value, nats.
    """

    optimum: tuple[int, int]
    minima: int
    deep_minima: int
    basin: float
    condition: float
    bent_down: float
    plateau: float
    depth: float

    def as_dict(self) -> dict[str, Any]:
        """The measures by name."""
        return asdict(self)


def shape_of(values: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> Shape:
    """The measures of values (n, m) at coordinates (n,), (m,), both equally spaced."""
    steps = (float(first[1] - first[0]), float(second[1] - second[0]))
    flat = int(values.argmin())
    optimum = (flat // values.shape[1], flat % values.shape[1])
    return Shape(
        optimum=optimum,
        minima=len(local_minima(values)),
        deep_minima=deep_minima(values),
        basin=float(basin_of(values, steps).mean()),
        condition=condition_number(hessian_at(values, optimum, steps)),
        bent_down=bent_down(values),
        plateau=plateau(values, steps),
        depth=float(values.max() - values.min()),
    )


def local_minima(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(k, 2) rows and columns of interior points that lie below all eight neighbours."""
    inner = values[1:-1, 1:-1]
    low = np.ones(inner.shape, bool)
    for i, j in NEIGHBOURS:
        low &= inner < values[1 + i : values.shape[0] - 1 + i, 1 + j : values.shape[1] - 1 + j]
    return np.argwhere(low) + 1


def deep_minima(values: NDArray[np.float64], depth: float = DEEP_NATS) -> int:
    """Minima whose lowest way to any lower point climbs by `depth` or more; the smallest value always counts one.

    Points are joined from the lowest up, and a valley ends where it meets a lower one (persistence). Those that drain
    over the edge count too.
    """
    rows, columns = values.shape
    order = np.argsort(values, axis=None, kind="stable")
    height = values.ravel()
    parent = np.full(values.size, -1, np.int64)

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = int(parent[k])
        return k

    found = 1
    for k in order.tolist():
        parent[k] = k
        r, c = divmod(k, columns)
        for i, j in NEIGHBOURS:
            if not (0 <= r + i < rows and 0 <= c + j < columns) or parent[k + i * columns + j] < 0:
                continue
            a, b = root(k), root(k + i * columns + j)
            if a != b:
                low, high = (a, b) if height[a] <= height[b] else (b, a)
                found += bool(height[k] - height[high] >= depth)
                parent[high] = low
    return found


def basin_of(values: NDArray[np.float64], steps: tuple[float, float]) -> NDArray[np.bool_]:
    """(n, m) where steepest descent from point to neighbouring point ends at the smallest value."""
    rows, columns = values.shape
    padded = np.pad(values, 1, constant_values=np.inf)
    steepest = np.zeros(values.shape)
    target = np.arange(values.size).reshape(values.shape)
    own = target.copy()
    for i, j in NEIGHBOURS:
        fall = values - padded[1 + i : rows + 1 + i, 1 + j : columns + 1 + j]
        slope = fall / np.hypot(i * steps[0], j * steps[1])
        better = slope > steepest
        steepest = np.where(better, slope, steepest)
        target = np.where(better, own + i * columns + j, target)
    ends = target.ravel()
    while not np.array_equal(ends[ends], ends):
        ends = ends[ends]
    return (ends == int(values.argmin())).reshape(values.shape)


def hessian_at(
    values: NDArray[np.float64], place: tuple[int, int], steps: tuple[float, float]
) -> NDArray[np.float64] | None:
    """(2, 2) second derivatives of the quadratic that fits 5 x 5 points about a place best; None near the edge."""
    r, c = place
    if not (FIT <= r < values.shape[0] - FIT and FIT <= c < values.shape[1] - FIT):
        return None
    window = values[r - FIT : r + FIT + 1, c - FIT : c + FIT + 1]
    axis = np.arange(-FIT, FIT + 1)
    x, y = (g.ravel() for g in np.meshgrid(axis * steps[0], axis * steps[1], indexing="ij"))
    design = np.stack((np.ones_like(x), x, y, 0.5 * x * x, x * y, 0.5 * y * y), 1)
    fit = np.linalg.lstsq(design, (window - window.min()).ravel(), rcond=None)[0]
    return np.array([[fit[3], fit[4]], [fit[4], fit[5]]])


def condition_number(matrix: NDArray[np.float64] | None) -> float:
    """Largest over smallest eigenvalue of a symmetric matrix; NaN where it is not positive definite, or none."""
    if matrix is None:
        return float("nan")
    eigenvalues = np.linalg.eigvalsh(matrix)
    return float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else float("nan")


def bent_down(values: NDArray[np.float64]) -> float:
    """Share of interior points whose matrix of second differences has a negative eigenvalue; the same in any units."""
    along = values[2:, 1:-1] - 2 * values[1:-1, 1:-1] + values[:-2, 1:-1]
    across = values[1:-1, 2:] - 2 * values[1:-1, 1:-1] + values[1:-1, :-2]
    mixed = (values[2:, 2:] - values[2:, :-2] - values[:-2, 2:] + values[:-2, :-2]) / 4
    smallest = 0.5 * (along + across) - np.sqrt(0.25 * (along - across) ** 2 + mixed**2)
    return float((smallest < 0).mean())


def plateau(values: NDArray[np.float64], steps: tuple[float, float]) -> float:
    """Share of the area whose slope is below a tenth of the mean slope."""
    slope = np.hypot(*np.gradient(values, *steps))
    return float((slope < LEVEL * slope.mean()).mean())
