"""Refocusing: the distance moved with object and probe following, where the distance alone would crawl.

Under a smooth beam an object at a wrong distance is nearly as good as the true one at its own. psi at distance z, and
psi propagated by -h at z + h, give one and the same camera field; and propagating P O is propagating P and O each, but
for what the beam's edge and curvature do. Along this valley the loss falls gently, across it steeply: gradients, which
see the distance with object and probe held, make short steps. Here the loss is looked at along the valley, at three
distances with object and probe propagated to match, and the distance goes to the parabola's minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.fit import Fit
from recon.optics import longitudinal_wavenumber
from recon.propagators import fast_length

FRAMES = 8
"""Frames that are looked at, three times: a tenth of an epoch for a hundred frames."""
SPACING = 1.5
"""Of the three distances, over pixel^2/lambda, the depth of focus of one pixel."""
FARTHEST = 2.0
"""Longest move over the spacing: a parabola is not to be believed further out."""


class Spectrum:
    """Spectrum of fields (..., M, M), to propagate them over several distances; zeros around them to a fast length."""

    def __init__(self, field: Tensor, pixel_m: float, wavelength_m: float):
        self.shape = field.shape
        side = fast_length(field.shape[-1])
        kappa, _, _ = longitudinal_wavenumber((side, side), pixel_m, wavelength_m)
        self.kappa = torch.from_numpy(kappa)
        self.values = torch.fft.fft2(field, s=(side, side))

    def propagated(self, distance_m: float) -> Tensor:
        """The fields `distance_m` further on in free space."""
        phase = (self.kappa * distance_m).to(self.values.real)
        moved = torch.fft.ifft2(self.values * torch.polar(torch.ones_like(phase), phase))
        return moved[..., : self.shape[-2], : self.shape[-1]]


def refocus(fit: Fit, wavelength_m: float) -> float:
    """Move distance, object and probe along the valley, in place; returns by how much the distance moved (m).

    In a team all processes make the same move: the loss is of all their frames.
    """
    u, pixel = fit.unknowns, fit.optics.object_pixel_m
    spacing = SPACING * pixel**2 / wavelength_m
    # From all over the scan, and from every process of a team.
    frames = torch.linspace(0, fit.count - 1, min(FRAMES, fit.count)).round().long()

    # A calibration that is resumed here settles too.
    fit.settle()
    spectra = [Spectrum(field, pixel, wavelength_m) for field in (u.probe, u.object)]

    def loss_at(move_m: float) -> float:
        probe, obj = (spectrum.propagated(-move_m) for spectrum in spectra)
        return fit.loss_of(frames, probe, obj, u.offset_m + move_m)

    before, here, after = (loss_at(k * spacing) for k in (-1, 0, 1))
    slope, bend = (after - before) / 2, before - 2 * here + after
    if bend > abs(slope) / FARTHEST:
        share = -slope / bend
    else:
        # Far from a minimum, or on top of a hill: downhill, as far as is sensible.
        share = FARTHEST * (-1.0 if slope > 0 else 1.0)
    move = share * spacing
    for field, spectrum in zip((u.probe, u.object), spectra, strict=True):
        field.copy_(spectrum.propagated(-move))
    u.offset_m.add_(move)
    return move
