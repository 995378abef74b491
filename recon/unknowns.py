"""Everything that calibration searches, in units in which one step suits all, with the gauges pinned.

Probe and object are scaled to about one, the distance's offset is in metres, positions in camera pixels, the flux of a
frame is a logarithm and the background a fraction of the mean signal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

GROUPS = ("object", "probe", "offset_m", "affine", "deviation", "log_gain", "background")
"""The searched tensors of `Unknowns`, in the order of steps and gradients."""


@dataclass
class Unknowns:
    """The state of a calibration; saving, resuming and showing read the same thing.

    Attributes:
        object: (M, M) complex, index M//2 at the origin.
        probe: (m, K, K) complex, mutually incoherent modes, the first the strongest.
        nominal_px: (n, 2) positions of the scan's points by the stage, in pixels of the object's grid.
        point: (N,) int64, which point each frame belongs to; bracketed exposures share one.
        lit: (n,) bool, points whose frames hold light enough to tell where they are; the others follow the affine map.
        offset_m: () distance minus the geometry's.
        affine: (3,) rotation, shear and anisotropy as the position error (px) they make at the scan's rms radius.
        deviation: (n, 2) px, each point's own error; its mean does not count.
        log_gain: (N,) each frame's flux over the common one, logarithm.
        background: () light that came another way, in units of the mean signal of a pixel.
    """

    object: Tensor
    probe: Tensor
    nominal_px: Tensor
    point: Tensor
    lit: Tensor
    offset_m: Tensor = field(init=False)
    affine: Tensor = field(init=False)
    deviation: Tensor = field(init=False)
    log_gain: Tensor = field(init=False)
    background: Tensor = field(init=False)

    def __post_init__(self) -> None:
        real = self.probe.real.dtype
        self.nominal_px = self.nominal_px.to(real)
        self.offset_m = self.nominal_px.new_zeros(())
        self.affine = self.nominal_px.new_zeros(3)
        self.deviation = torch.zeros_like(self.nominal_px)
        self.log_gain = self.nominal_px.new_zeros(len(self.point))
        self.background = self.nominal_px.new_zeros(())
        centred = self.nominal_px - self.nominal_px.mean(0)
        self.radius = float(centred.square().sum(1).mean().sqrt().clamp_min(1.0))
        self.centred = centred / self.radius
        # Orthonormal columns that span every affine map of the lit positions: mean, and linear in y and x.
        plane = torch.cat((torch.ones_like(centred[:, :1]), self.centred), 1) * self.lit[:, None]
        enough = int(self.lit.sum()) > 3
        self.plane = torch.linalg.qr(plane.double().cpu())[0].to(plane) if enough else plane[:, :0]

    def to(self, device: torch.device | str) -> Unknowns:
        """The same on another device."""
        moved = Unknowns(*(getattr(self, n).to(device) for n in ("object", "probe", "nominal_px", "point", "lit")))
        moved.load({name: getattr(self, name) for name in GROUPS})
        return moved

    def searched(self) -> list[Tensor]:
        """The tensors that steps change, in the order of `GROUPS`."""
        return [getattr(self, name) for name in GROUPS]

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of what is searched."""
        return {name: getattr(self, name).detach().clone() for name in GROUPS}

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what `snapshot` gave, in place."""
        for name in GROUPS:
            getattr(self, name).copy_(values[name])

    def positions_px(self) -> Tensor:
        """(n, 2) positions: nominal, plus a traceless linear map, plus deviations without any affine part.

        Traceless keeps the isotropic scale with the stage, and the deviations' mean is a joint shift of object and
        positions; both are gauges. Rotation, shear and anisotropy are the linear map's alone, so that points without
        light follow it too.
        """
        rotation, shear, anisotropy = self.affine
        y, x = self.centred[:, 0], self.centred[:, 1]
        linear = torch.stack([anisotropy * y + (shear - rotation) * x, (shear + rotation) * y - anisotropy * x], dim=1)
        return self.nominal_px + linear + self.own()

    def own(self) -> Tensor:
        """(n, 2) deviations of the lit points from every affine map."""
        return self._projected(self.deviation)

    def _projected(self, vectors: Tensor) -> Tensor:
        return vectors * self.lit[:, None] - self.plane @ (self.plane.T @ vectors)

    def pulled(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The adjoint of `positions_px`: dL/dposition (n, 2) to dL/d(affine), dL/d(deviation)."""
        y, x = self.centred[:, 0], self.centred[:, 1]
        gy, gx = gradient[:, 0], gradient[:, 1]
        affine = torch.stack([(gx * y - gy * x).sum(), (gx * y + gy * x).sum(), (gy * y - gx * x).sum()])
        return affine, self._projected(gradient)
