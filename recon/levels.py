"""Coarse before fine: binned frames for the first stages, and unknowns carried to the next finer grid.

The field that reaches the camera's lit window has no frequency above about (window + source)/(2 lambda z), far below
what the pitch could hold. On binned pixels an epoch costs a quarter or less, and a position error is fewer pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from recon.dataset import Scan
from recon.model import object_size
from recon.unknowns import Unknowns


def binned(data: Scan, factor: int) -> Scan:
    """The data on pixels `factor` times coarser (`Ptychogram.binned`), as they are for a factor of one."""
    return data if factor == 1 else data.binned(factor)


def resampled(field: NDArray, factor: float, size: int, offset: float) -> NDArray[np.complex64]:
    """(size, size) complex field on a pitch `factor` times finer, cubic splines, zero outside.

    Index size//2 of the result lies `offset` fine pixels before index n//2 of `field`.
    """
    axis = (np.arange(size) - size // 2 - offset) / factor + len(field) // 2
    grid = np.meshgrid(axis, axis, indexing="ij")

    def part(values: NDArray) -> NDArray:
        return ndimage.map_coordinates(values, grid, order=3, mode="nearest")

    return (part(field.real) + 1j * part(field.imag)).astype(np.complex64)


def finer(unknowns: Unknowns, factor: int, window: int, margin: int) -> tuple[Unknowns, float]:
    """The unknowns on pixels `factor` times finer, and by what the flux per unit of |probe|^2 is to be multiplied.

    Args:
        window: side of the fine probe's array.
        margin: pixels around the outermost window on the fine object's grid.
    """
    device = unknowns.probe.device
    # A coarse pixel's middle is that of factor x factor fine ones.
    offset = (factor - 1) / 2
    coarse = unknowns.probe.cpu().numpy()
    probe = torch.from_numpy(np.stack([resampled(mode, factor, window, offset) for mode in coarse]))
    nominal = unknowns.nominal_px.cpu() * factor
    size = object_size(nominal, window, margin)
    obj = torch.from_numpy(resampled(unknowns.object.cpu().numpy(), factor, size, offset))
    fine = Unknowns(obj, probe, nominal, unknowns.point.cpu(), unknowns.lit.cpu())
    fine.offset_m.copy_(unknowns.offset_m)
    fine.affine.copy_(unknowns.affine * factor)
    fine.deviation.copy_(unknowns.deviation * factor)
    fine.log_gain.copy_(unknowns.log_gain)
    fine.background.copy_(unknowns.background)
    energies = [float((p.abs() ** 2).sum()) for p in (unknowns.probe, probe)]
    return fine.to(device), energies[0] / energies[1]
