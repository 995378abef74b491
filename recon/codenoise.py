"""The likelihood of a camera's codes: Poisson electrons, read noise as measured, rounding to whole digital numbers.

p(code | I) = sum_n Poisson(n; I) H(code - dark - n/gain), H from `recon.readkernel`, looked up in a table. Exact where
`recon.exactnoise` takes the noise for normal and rounding for more of it: for steps of several read noises, and for
noise with tails.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recon.exactnoise import LEAST_E, in_pieces, poisson_log
from recon.information import FisherTable, fisher_column
from recon.readkernel import ReadKernel


class CodeMixed:
    """-ln of the probability of a code, complete: the probabilities of all codes sum to one.

    `measured` are electrons as everywhere, gain x (code - dark mean), and need not lie on a common grid. The noise is
    the kernel's for every pixel: `variance` only gives its shape to the result, and pixels that are much noisier belong
    masked. Readings that no number of electrons explains have probability `readkernel.FLOOR`.

    Args:
        kernel: of the read noise.
        device: where the table lies.
    """

    name = "codes"

    def __init__(self, kernel: ReadKernel, device: torch.device | str = "cpu"):
        self.kernel = kernel
        self.first_e, self.spacing_e, table = kernel.log_table()
        self.table = torch.from_numpy(table).to(device)
        self.reach_e = kernel.reach_e
        self._fisher: FisherTable | None = None

    def evaluate(self, expected: Tensor, measured: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`value`, `score` and `curvature` at the price of one."""
        return in_pieces(lambda light, x, _: self._piece(light.clamp_min(LEAST_E), x), expected, measured, variance)

    def _piece(self, light: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lowest = (x - self.reach_e).ceil().clamp_min(0)
        log_light = light.log()
        log = torch.zeros_like(light)
        peak = torch.full_like(light, -math.inf)
        zeroth, first, second = torch.zeros_like(light), torch.zeros_like(light), torch.zeros_like(light)
        # Moments of the number of electrons, relative to the largest term so far.
        for k in range(math.floor(2 * self.reach_e) + 2):
            if k:
                log = log + log_light - (lowest + k).log()
            term = log + self.log_kernel(x - (lowest + k))
            higher = torch.maximum(peak, term)
            keep, term = (peak - higher).exp(), (term - higher).exp()
            zeroth = zeroth * keep + term
            first = first * keep + k * term
            second = second * keep + (k * (k - 1)) * term
            peak = higher
        mean = first / zeroth
        value = poisson_log(lowest, light) - peak - zeroth.log()
        score = ((light - lowest) - mean) / light
        return value, score, ((lowest - second / zeroth + mean * mean) / light / light).clamp_min(0.0)

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """-ln p(code | I), complete; carries gradients to `expected`."""
        return _Value.apply(expected, measured, variance, self)

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """d(-ln p)/dI = 1 - E[n | code, I]/I."""
        return self.evaluate(expected, measured, variance)[1]

    def curvature(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """d2(-ln p)/dI2, zero where it is negative, which it can be between the core and the tails of the noise."""
        return self.evaluate(expected, measured, variance)[2]

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        """E[score^2] of codes at all fractions of a digital number alike, from a table made at the first call."""
        if self._fisher is None:
            scale = self.kernel.variance_e2
            column = fisher_column(self._information, scale)
            self._fisher = FisherTable(0.5 * math.log(scale), torch.stack((column, column)))
        own = torch.full_like(expected, self.kernel.variance_e2)
        return torch.broadcast_tensors(self._fisher.look_up(expected, own), variance)[0]

    def series(self, measured: Tensor, variance: Tensor, terms: int) -> Tensor:
        """ln r_n, (terms, ...) for n = 1 .. terms, of p(X | I)/p(X | 0) = e^-I (1 + r_1 I + r_2 I^2 + ...)."""
        dark = self.log_kernel(measured)
        rows = [self.log_kernel(measured - n) - dark - math.lgamma(n + 1) for n in range(1, terms + 1)]
        return torch.broadcast_tensors(torch.stack(rows), variance)[0]

    def log_kernel(self, residual_e: Tensor) -> Tensor:
        """ln H of residuals in electrons."""
        place = ((residual_e - self.first_e) / self.spacing_e).clamp(0, len(self.table) - 1)
        low = place.floor().clamp_max(len(self.table) - 2)
        index = low.to(torch.int64)
        table = self.table.to(residual_e.dtype)
        return torch.lerp(table[index], table[index + 1], place - low)

    def _information(self, intensity: float) -> float:
        """By quadrature over readings at all fractions; sharp steps of H are finer than half a percent of its width."""
        spread = math.sqrt(intensity)
        low = max(0.0, intensity - 9 * spread - 3) - self.reach_e
        step = 8 * self.spacing_e
        x = torch.arange(low, intensity + 9 * spread + 14 + self.reach_e, step, dtype=torch.float64)
        x = x.to(self.table.device)
        value, score, _ = self.evaluate(torch.full_like(x, intensity), x, x)
        return float(((-value).exp() * score * score).sum()) * step / self.kernel.electrons_per_adu


class _Value(torch.autograd.Function):
    """-ln p that carries gradients to the expectation."""

    @staticmethod
    def forward(ctx: Any, expected: Tensor, measured: Tensor, variance: Tensor, owner: CodeMixed) -> Tensor:
        value, score, _ = owner.evaluate(expected, measured, variance)
        ctx.save_for_backward(score)
        ctx.shape = expected.shape
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (score,) = ctx.saved_tensors
        return (grad * score).sum_to_size(ctx.shape), None, None, None
