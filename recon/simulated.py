"""Frames of a study, through a full model that shares nothing with the estimators' camera operator.

The padded, band-limited angular spectrum at the camera's own pitch, averaged over pixels; then photons and read noise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.frameloss import Batch, FrameLoss
from recon.illumination import Illumination
from recon.noise import MixedGaussian
from recon.propagators import NearField
from recon.scene import moved

AT_ONCE = 4
"""Frames that are propagated together."""


def intensities(
    light: Illumination, positions_m: NDArray[np.float64], amplitude: NDArray[np.float32], device: str = "cpu"
) -> Tensor:
    """(N, H, W) float32 electrons per second of the light at `positions_m` (N, 2) through an object (M, M).

    Index M//2 of the object is its origin. Raises `ValueError` where a probe window leaves the object's grid.
    """
    window, geometry = len(light.probe), light.geometry
    positions = positions_m / geometry.pixel_size_m
    whole = np.round(positions)
    corners = (whole + (len(amplitude) // 2 - window // 2)).astype(int)
    if corners.min() < 0 or corners.max() + window > len(amplitude):
        raise ValueError(f"a probe window leaves the object grid of {len(amplitude)} px; enlarge the grid")
    model = FrameLoss(NearField.build(geometry, window, padded=True, device=device), MixedGaussian())
    probe = torch.from_numpy(light.probe).to(device)[None]
    obj = torch.from_numpy(np.ascontiguousarray(amplitude)).to(device=device, dtype=torch.complex64)
    shifts = torch.from_numpy(positions - whole).float().to(device)
    nothing = torch.zeros(0, device=device)
    parts = []
    for start in range(0, len(positions), AT_ONCE):
        chosen = slice(start, start + AT_ONCE)
        places = [(int(r), int(c)) for r, c in corners[chosen]]
        ones, zeros = (torch.full((len(places),), value, device=device) for value in (1.0, 0.0))
        batch = Batch(nothing, nothing, None, places, shifts[chosen], ones, zeros)
        parts.append(model.intensities(probe, obj, batch, torch.zeros((), device=device)))
    return torch.cat(parts)


def exposed(per_second: Tensor, seconds: float, read_noise_e: float, seed: NDArray[np.uint32]) -> Tensor:
    """(N, H, W) electrons of one exposure of intensities (N, H, W), which may be crops of it: photons and read noise.

    The same `seed` (words of it) gives the same frames on the same kind of device.
    """
    word = int(np.random.SeedSequence(seed.tolist()).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator(per_second.device).manual_seed(word)
    frames = torch.poisson((per_second * seconds).clamp_min(0), generator=generator)
    noise = torch.randn(frames.shape, generator=generator, device=frames.device)
    return frames.add_(noise, alpha=read_noise_e)


def posed(image: NDArray[np.float32], pose: NDArray[np.float64], field_m: float) -> NDArray[np.float32]:
    """An image (s, s) in a pose (4,): shift y, x in metres, rotation in rad, logarithm of the magnification."""
    placed = moved(torch.from_numpy(image)[None, None], torch.from_numpy(pose).float()[None], field_m)
    result: NDArray[np.float32] = placed[0, 0].numpy()
    return result
