"""How much a pixel tells about its intensity: Fisher information and sandwich variances under the exact noise model.

X = Poisson(I) + Normal(0, s^2) is taken for the truth. `expectations` integrates any function of X over it; the exact
likelihood's own information is tabulated by it once for each read noise, on a logarithmic grid of I.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import gammaln
from torch import Tensor

LEAST_I, MOST_I = 1e-8, 200.0
"""Electrons between which F (I + s^2) is tabulated; beyond, its value at the end holds, one to 2e-4 where bright."""
LEAST_SIGMA, MOST_SIGMA = 0.1, 20.0
"""Read noise, electrons rms, for which there is a table."""
_COLUMN = 0.02
"""Spacing of the table in ln s as it is looked up, by linear interpolation."""
_NODE = 4
"""Every so many columns are computed, the others come from a cubic spline."""
_FINE = 0.02
"""Spacing of the table in ln I as it is looked up."""
_COARSE_PER_DECADE = 8


@dataclass(frozen=True, eq=False)
class FisherTable:
    """ln(F (I + s^2)) on a grid of ln I and ln s.

    Attributes:
        first_log_sigma: ln s of the first column.
        values: (S, T) float64.
    """

    first_log_sigma: float
    values: Tensor

    def look_up(self, expected: Tensor, variance: Tensor) -> Tensor:
        """Fisher information of each pixel, by bilinear interpolation."""
        columns, rows = self.values.shape
        table = _placed(self, expected.device, expected.dtype)
        along = (expected.clamp(LEAST_I, MOST_I).log() - math.log(LEAST_I)) / _FINE
        along = along.clamp(0, rows - 1)
        row = along.floor().clamp_max(rows - 2)
        across = (0.5 * variance.log() - self.first_log_sigma) / _COLUMN
        across = across.clamp(0, columns - 1)
        column = across.floor().clamp_max(columns - 2)
        a, b = along - row, across - column
        index = (column * rows + row).to(torch.int64)
        low = table[index] * (1 - a) + table[index + 1] * a
        high = table[index + rows] * (1 - a) + table[index + rows + 1] * a
        return (low * (1 - b) + high * b).exp() / (expected.clamp_min(LEAST_I) + variance)


@lru_cache(maxsize=16)
def _placed(table: FisherTable, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A table's values in one line on a device, where they stay: no look-up copies, or waits."""
    return table.values.to(device, dtype).flatten()


def fisher_table(least_sigma: float, most_sigma: float) -> FisherTable:
    """The table for read noises between the two, electrons rms; columns are made once in a process.

    Raises:
        ValueError: outside LEAST_SIGMA .. MOST_SIGMA.
    """
    if least_sigma * (1 + 1e-6) < LEAST_SIGMA or most_sigma > MOST_SIGMA * (1 + 1e-6):
        raise ValueError(
            f"Fisher information: a read noise of {least_sigma:.3g} .. {most_sigma:.3g} e- lies outside "
            f"{LEAST_SIGMA:g} .. {MOST_SIGMA:g} e-; mask such pixels, or use 'true-poisson' below and 'mixed' "
            "above"
        )
    first = math.floor(math.log(least_sigma) / _COLUMN)
    last = max(math.ceil(math.log(most_sigma) / _COLUMN), first + 1)
    return _table(first, last)


@lru_cache(maxsize=8)
def _table(first: int, last: int) -> FisherTable:
    # Two more nodes on either side: a spline's ends are not its best.
    nodes = np.arange(first // _NODE - 1, -(-last // _NODE) + 2)
    values = np.stack([_column(int(node) * _NODE) for node in nodes])
    wanted = CubicSpline(nodes * _NODE, values)(np.arange(first, last + 1))
    return FisherTable(first * _COLUMN, torch.from_numpy(wanted))


@lru_cache(maxsize=512)
def _column(number: int) -> NDArray[np.float64]:
    sigma = math.exp(number * _COLUMN)
    return fisher_column(lambda intensity: exact_information(intensity, sigma), sigma**2).numpy()


def fisher_column(information: Callable[[float], float], variance: float) -> Tensor:
    """(T,) ln(F (I + s^2)) on the table's grid of ln I, F(I) taken at a few intensities a decade."""
    decades = math.log10(MOST_I / LEAST_I)
    nodes = np.linspace(math.log(LEAST_I), math.log(MOST_I), round(decades * _COARSE_PER_DECADE) + 1)
    scaled = [math.log(information(math.exp(node)) * (math.exp(node) + variance)) for node in nodes]
    fine = nodes[0] + _FINE * np.arange(math.floor((nodes[-1] - nodes[0]) / _FINE) + 1)
    return torch.from_numpy(CubicSpline(nodes, scaled)(fine))


def grid(intensity: float, sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Readings (T,), their probabilities (T,) and E[n | X] (T,) under the exact model.

    The trapezoid rule converges exponentially here: posterior means have poles at distances of pi s^2 from the axis,
    densities the width s.
    """
    step = min(sigma**2, 0.5 * sigma)
    spread = math.sqrt(intensity)
    lowest = max(0, math.floor(intensity - 9 * spread - 3))
    n = np.arange(lowest, math.ceil(intensity + 9 * spread + 14) + 1)
    x = np.arange(lowest - 8 * sigma, n[-1] + 8 * sigma, step)
    # Only the electrons within a few s of a reading count: a band instead of a full matrix.
    reach = math.ceil(9 * sigma) + 1
    near = np.rint(x)[:, None] + np.arange(-reach, reach + 1)
    log = np.where(near >= 0, near * math.log(intensity) - intensity - gammaln(np.maximum(near, 0) + 1), -np.inf)
    terms = np.exp(log - 0.5 * ((x[:, None] - near) / sigma) ** 2)
    density = terms.sum(1)
    mean = (terms * near).sum(1) / np.maximum(density, 1e-300)
    return x, density * step / (sigma * math.sqrt(2 * math.pi)), mean


def exact_information(intensity: float, sigma: float) -> float:
    """Fisher information of the exact likelihood by quadrature, per electron squared."""
    _, probability, mean = grid(intensity, sigma)
    return float((probability * (1 - mean / intensity) ** 2).sum())


@dataclass(frozen=True)
class Sandwich:
    """A likelihood that is not the truth, judged where the truth is the exact model.

    Attributes:
        bias: E[score], which moves the estimate by -bias/slope.
        slope: E[d score/dI].
        spread: Var[score].
    """

    bias: float
    slope: float
    spread: float

    @property
    def variance(self) -> float:
        """Asymptotic variance of the estimated intensity for one pixel seen once."""
        return self.spread / self.slope**2


def sandwich(score: Callable[[Tensor, Tensor, Tensor], Tensor], intensity: float, sigma: float) -> Sandwich:
    """Bias, slope and spread of a score (expected, measured, variance) at an intensity, by quadrature."""
    x, probability, _ = grid(intensity, sigma)
    variance = torch.tensor(sigma**2, dtype=torch.float64)
    readings = torch.from_numpy(x)

    def at(level: float) -> NDArray[np.float64]:
        return score(torch.full_like(readings, level), readings, variance).numpy()

    step = 1e-4 * intensity
    middle = at(intensity)
    mean = float((probability * middle).sum())
    slope = float((probability * (at(intensity + step) - at(intensity - step))).sum()) / (2 * step)
    return Sandwich(mean, slope, float((probability * (middle - mean) ** 2).sum()))
