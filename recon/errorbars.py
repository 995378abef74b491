"""What is stored and shown of a calibration's uncertainty; `recon.uncertainty` computes it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of a calibration, everything else marginalised.

    Attributes:
        distance_sigma_m: of the distance, the positions' scale known; NaN where the distance was not refined.
        affine_sigma: (3,) of rotation, shear and anisotropy of the positions, dimensionless.
        position_sigma_m: (N, 2) of each frame's position (y, x), about a joint shift and scale.
        probe_modes: (r, K, K) complex64 orthonormal directions in which the probe is uncertain, the strongest first.
        probe_sigma: (r,) standard deviation along each, square root of electrons per second.
        probe_pixel_m: pitch of the modes: that of the camera times `binning`.
        probe_relative: rms uncertainty of the probe over its norm.
        distance_step_m: what the search may have left undone; in the sigma already.
        misfit: squared residuals over their variance, per pixel less the parameters that were fitted to them; the
            covariances were multiplied by it where it is above one.
        fitted: parameters that the data determine, in which the residuals are that many pixels short.
        binning: camera pixels per pixel, each way, of the curvature.
        products: with the curvature, which is most of what it cost.
    """

    distance_sigma_m: float
    affine_sigma: NDArray[np.float64]
    position_sigma_m: NDArray[np.float64]
    probe_modes: NDArray[np.complex64]
    probe_sigma: NDArray[np.float64]
    probe_pixel_m: float
    probe_relative: float
    distance_step_m: float
    misfit: float
    fitted: float
    binning: int
    products: int

    def summary(self, pixel_m: float) -> dict[str, float | int]:
        """Numbers for reports; `pixel_m` is the camera's pitch."""
        return {
            "distance_sigma_m": self.distance_sigma_m,
            "position_sigma_px": float(np.sqrt(np.square(self.position_sigma_m).sum(1).mean())) / pixel_m,
            "rotation_sigma_rad": float(self.affine_sigma[0]),
            "shear_sigma": float(self.affine_sigma[1]),
            "anisotropy_sigma": float(self.affine_sigma[2]),
            "probe_sigma": self.probe_relative,
            "misfit": self.misfit,
        }
