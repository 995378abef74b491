"""Adam (Kingma & Ba 2015) on a list of real and complex tensors, in place and without a word to the host.

Complex numbers have one second moment, of their modulus, so that a common phase of the gradient turns the step and
does not change its length. Step sizes and counters live on the device: a captured CUDA graph repeats a step as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """First and second moments of each parameter's gradient, and the step they make.

    Attributes:
        rates: () step size of each parameter, tensors that the caller fills.
    """

    def __init__(self, parameters: list[Tensor], betas: tuple[float, float] = (0.9, 0.99), tiny: float = 1e-12):
        self.parameters = parameters
        self.betas = betas
        self.tiny = tiny
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [p.new_zeros(p.shape, dtype=p.real.dtype) for p in parameters]
        self.rates = [p.new_zeros((), dtype=p.real.dtype) for p in parameters]
        # beta^t of the bias corrections
        self.fading = parameters[0].new_ones((2,), dtype=parameters[0].real.dtype)
        self._betas = self.fading.new_tensor(betas)

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """One step down the gradients, dL/dRe + i dL/dIm for complex parameters."""
        self.fading.mul_(self._betas)
        correction = 1 - self.fading
        for parameter, gradient, first, second, rate in zip(
            self.parameters, gradients, self.first, self.second, self.rates, strict=True
        ):
            first.lerp_(gradient, 1 - self.betas[0])
            if gradient.is_complex():
                pairs = torch.view_as_real(gradient)
                square = torch.mul(pairs[..., 0], pairs[..., 0]).addcmul_(pairs[..., 1], pairs[..., 1])
            else:
                square = gradient * gradient
            second.lerp_(square, 1 - self.betas[1])
            scale = (second / correction[1]).sqrt_().add_(self.tiny).reciprocal_().mul_(-rate / correction[0])
            parameter.add_(first * scale)

    def forget(self) -> None:
        """Zero moments, as at the start."""
        for moment in (*self.first, *self.second):
            moment.zero_()
        self.fading.fill_(1.0)
