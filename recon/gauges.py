"""Directions in which a calibration's likelihood is nearly flat, as a coarse space for solvers and searches.

Distance and positions' scale together change nothing at all; with an astigmatic or curved beam their relatives nearly
do: the object stretched by a rotation, shear or anisotropy of the positions, quadratic phases of object and probe, the
probe stretched. A search that moves along single pixels needs hundreds of steps for these; solved for among themselves,
they cost a dozen images each frame.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.curvature import Curvature, Direction

MAPS = ((0, -1, 1, 0), (0, 1, 1, 0), (1, 0, 0, -1), (1, 0, 0, 1))
"""Rotation, shear, anisotropy and scale as matrices (yy, yx, xy, xx)."""
CUT = 1e-5
"""Eigenvalues of the coarse space below this share of the largest are gauges: nothing moves along them."""


def nearly_gauges(curvature: Curvature) -> list[Direction]:
    """The coarse space of a calibration at the curvature's point; distance and affine map where they are free."""
    u, free = curvature.unknowns, curvature.free
    zero = curvature.zeros()
    vectors: list[Direction] = []
    if free.distance:
        vectors.append(replace(zero, offset_m=torch.ones_like(u.offset_m)))
    if free.positions:
        for k in range(3):
            affine = torch.zeros_like(u.affine)
            affine[k] = 1.0
            vectors.append(replace(zero, affine=affine, object=_stretched(u.object, MAPS[k]) / u.radius))
    vectors += [replace(zero, probe=_stretched(u.probe, matrix)) for matrix in MAPS]
    vectors.append(replace(zero, object=_stretched(u.object, MAPS[3])))
    vectors += [replace(zero, probe=bent) for bent in _bent(u.probe)]
    vectors += [replace(zero, object=bent) for bent in _bent(u.object)]
    return vectors


def scaled(vectors: list[Direction], scales: Direction) -> list[Direction]:
    """Those of non-zero length, made of unit length in a diagonal metric."""
    norms = [vector.dot(vector.times(scales)) for vector in vectors]
    return [v.plus(v, norm**-0.5 - 1) for v, norm in zip(vectors, norms, strict=True) if norm > 0]


def inverse(gram: Tensor) -> NDArray[np.float64]:
    """(r, r) pseudo-inverse of the curvature within the coarse space."""
    matrix = gram.cpu().numpy()
    found: NDArray[np.float64] = np.linalg.pinv((matrix + matrix.T) / 2, rcond=CUT, hermitian=True)
    return found


def _stretched(field: Tensor, matrix: tuple[int, ...]) -> Tensor:
    """d/da of field((1 + a M)^-1 r) at a = 0, M = ((yy, yx), (xy, xx)), per unit of a."""
    axis = torch.arange(field.shape[-1], device=field.device, dtype=field.real.dtype) - field.shape[-1] // 2
    y, x = axis[:, None], axis[None, :]
    slope_y, slope_x = torch.zeros_like(field), torch.zeros_like(field)
    slope_y[..., 1:-1, :] = (field[..., 2:, :] - field[..., :-2, :]) / 2
    slope_x[..., :, 1:-1] = (field[..., :, 2:] - field[..., :, :-2]) / 2
    return -(slope_y * (matrix[0] * y + matrix[1] * x) + slope_x * (matrix[2] * y + matrix[3] * x))


def _bent(field: Tensor) -> list[Tensor]:
    """The field times i (y^2 - x^2), i 2xy and i (y^2 + x^2)."""
    axis = torch.arange(field.shape[-1], device=field.device, dtype=field.real.dtype) - field.shape[-1] // 2
    y, x = axis[:, None], axis[None, :]
    return [1j * form * field for form in (y * y - x * x, 2 * x * y, y * y + x * x)]
