"""Measured data as reconstructions take it: electrons with their noise, positions on the object, and the geometry.

Counts have become electrons once, at the edge: dark subtracted, gain applied, negatives kept. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recon.limits import DISTANCE, PIXEL_SIZE, WAVELENGTH


class DatasetError(Exception):
    """Data are missing, inconsistent or unreadable; the message names the file or field and the remedy."""


@dataclass(frozen=True)
class Geometry:
    """Where the light goes.

    Attributes:
        wavelength_m: vacuum wavelength.
        distance_m: object to camera.
        pixel_size_m: camera pitch, equal in both directions; in the near field the object's grid has the same.
        shape: (rows, columns) of a frame.
        far_field: the camera sees one Fourier transform of the exit wave (Fraunhofer), zero frequency at n//2.
    """

    wavelength_m: float
    distance_m: float
    pixel_size_m: float
    shape: tuple[int, int]
    far_field: bool = False

    def __post_init__(self) -> None:
        for name, limit in (("wavelength_m", WAVELENGTH), ("distance_m", DISTANCE), ("pixel_size_m", PIXEL_SIZE)):
            value = getattr(self, name)
            if not limit.holds(value):
                raise DatasetError(f"geometry: {name} {limit.refusal(value)}")
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise DatasetError(f"geometry: frames of {tuple(self.shape)} pixels hold nothing; give rows and columns")
        object.__setattr__(self, "shape", (int(self.shape[0]), int(self.shape[1])))

    @property
    def object_pixel_m(self) -> float:
        """Pitch of probe and object: the camera's, in the far field wavelength x distance/(side of the frame)."""
        if not self.far_field:
            return self.pixel_size_m
        return self.wavelength_m * self.distance_m / (min(self.shape) * self.pixel_size_m)

    def fresnel_scaled(self, focus_to_sample_m: float) -> Geometry:
        """The parallel-beam geometry equivalent to a cone beam (Fresnel scaling theorem; Paganin 2006).

        M = (focus_to_sample + distance)/focus_to_sample; pixel -> pixel/M, distance -> distance/M.

        Raises:
            DatasetError: not a positive distance, or the geometry is that of the far field.
        """
        if self.far_field:
            raise DatasetError("geometry: a cone beam's Fresnel scaling is of the near field; leave one out")
        if not DISTANCE.holds(focus_to_sample_m):
            raise DatasetError(f"geometry: focus to sample {DISTANCE.refusal(focus_to_sample_m)}")
        m = (focus_to_sample_m + self.distance_m) / focus_to_sample_m
        return replace(self, distance_m=self.distance_m / m, pixel_size_m=self.pixel_size_m / m)


class Scan(Protocol):
    """Diffraction patterns with what is known of them, wherever the frames are: `Ptychogram` or `Streamed`.

    The attributes are those of `Ptychogram`, save the frames themselves.
    """

    @property
    def positions_m(self) -> NDArray[np.float64]: ...

    @property
    def exposures_s(self) -> NDArray[np.float64]: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def dark_variance(self) -> NDArray[np.float32]: ...

    @property
    def mask(self) -> NDArray[np.bool_]: ...

    @property
    def indices(self) -> NDArray[np.int64]: ...

    @property
    def name(self) -> str: ...

    @property
    def empty(self) -> NDArray[np.float32] | None: ...

    @property
    def empty_exposure_s(self) -> float | None: ...

    def __len__(self) -> int: ...

    def read(self, frames: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """(B, H, W) electrons and (B, H, W) clipped pixels of some frames; None where none of theirs is clipped."""
        ...

    def select(self, keep: NDArray) -> Scan:
        """The frames chosen by an index or boolean array."""
        ...

    def crop(self, shape: tuple[int, int]) -> Scan:
        """The centred (rows, columns) window of every frame. Raises `DatasetError` where it leaves the frame."""
        ...

    def binned(self, factor: int) -> Scan:
        """Sums over blocks of factor x factor pixels. Raises `DatasetError` where they do not fit the frame."""
        ...


@dataclass(frozen=True)
class Ptychogram:
    """One set of diffraction patterns with everything a reconstruction may know about them.

    Attributes:
        frames: (N, H, W) float32, electrons, mean dark subtracted; negative values are kept.
        positions_m: (N, 2) float64, (y, x) of the illumination on the object; +y = +row, +x = +column.
        exposures_s: (N,) float64, actual exposures.
        geometry: wavelength, distance, pitch, frame shape.
        dark_variance: (H, W) float32, electrons squared: read noise, dark current and quantisation, without photons.
        mask: (H, W) bool, true = good pixel.
        saturated: (N, H, W) bool, true = clipped pixel, to be left out of that frame; None when nothing is clipped.
        indices: (N,) int64, position indices in the scan's plan (16 of 96 for an evaluation series).
        quantum_efficiency: electrons per photon, for reporting doses in photons.
        name: what this is, for titles and messages.
        empty: (H, W) float32 electrons of the empty beam (sample parked away), or None.
        empty_exposure_s: its exposure, or None.
    """

    frames: NDArray[np.float32]
    positions_m: NDArray[np.float64]
    exposures_s: NDArray[np.float64]
    geometry: Geometry
    dark_variance: NDArray[np.float32]
    mask: NDArray[np.bool_]
    saturated: NDArray[np.bool_] | None = None
    indices: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    quantum_efficiency: float = 1.0
    name: str = ""
    empty: NDArray[np.float32] | None = None
    empty_exposure_s: float | None = None

    def __post_init__(self) -> None:
        n = len(self.frames)
        if self.frames.ndim != 3 or self.frames.shape[1:] != self.geometry.shape:
            raise DatasetError(f"{self.name}: frames {self.frames.shape} do not fit the geometry {self.geometry.shape}")
        if len(self.indices) == 0:
            object.__setattr__(self, "indices", np.arange(n))
        expected = {
            "positions_m": (n, 2),
            "exposures_s": (n,),
            "indices": (n,),
            "dark_variance": self.geometry.shape,
            "mask": self.geometry.shape,
        }
        for key, shape in expected.items():
            if getattr(self, key).shape != shape:
                raise DatasetError(f"{self.name}: {key} has shape {getattr(self, key).shape}, expected {shape}")
        for key, shape in {"saturated": self.frames.shape, "empty": self.geometry.shape}.items():
            value = getattr(self, key)
            if value is not None and value.shape != shape:
                raise DatasetError(f"{self.name}: {key} has shape {value.shape}, expected {shape}")
        if not np.isfinite(self.positions_m).all():
            raise DatasetError(f"{self.name}: positions contain values that are not finite")

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, frames: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """(B, H, W) electrons and (B, H, W) clipped pixels of some frames; None where none of theirs is clipped."""
        chosen = np.asarray(frames, np.int64)
        clipped = None if self.saturated is None else self.saturated[chosen]
        return self.frames[chosen], clipped if clipped is None or clipped.any() else None

    def select(self, keep: NDArray) -> Ptychogram:
        """The frames chosen by an index or boolean array."""
        return replace(
            self,
            frames=self.frames[keep],
            positions_m=self.positions_m[keep],
            exposures_s=self.exposures_s[keep],
            indices=self.indices[keep],
            saturated=None if self.saturated is None else self.saturated[keep],
        )

    def crop(self, shape: tuple[int, int], centre: tuple[int, int] | None = None) -> Ptychogram:
        """The (rows, columns) window of every frame around pixel `centre` (default: the frame's middle).

        Raises:
            DatasetError: the window does not lie inside the frame.
        """
        rows, columns = self.geometry.shape
        cy, cx = centre if centre is not None else (rows // 2, columns // 2)
        top, left = cy - shape[0] // 2, cx - shape[1] // 2
        if top < 0 or left < 0 or top + shape[0] > rows or left + shape[1] > columns:
            raise DatasetError(f"{self.name}: window {shape} around {(cy, cx)} leaves the frame {self.geometry.shape}")
        window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        return replace(
            self,
            frames=self.frames[(slice(None), *window)],
            geometry=replace(self.geometry, shape=shape),
            dark_variance=self.dark_variance[window],
            mask=self.mask[window],
            saturated=None if self.saturated is None else self.saturated[(slice(None), *window)],
            empty=None if self.empty is None else self.empty[window],
        )

    def binned(self, factor: int) -> Ptychogram:
        """Sums over blocks of `factor` x `factor` pixels; a block with one bad or clipped pixel does not count.

        The axis of the coarse frame, the middle of its pixel n//2, lies (factor - 1)/2 fine pixels beyond the fine
        one's.

        Raises:
            DatasetError: the frame is no multiple of twice the factor.
        """
        geometry = binned_geometry(self.geometry, factor, self.name)
        return replace(
            self,
            frames=block_sums(self.frames, factor),
            geometry=geometry,
            dark_variance=block_sums(self.dark_variance, factor),
            mask=np.asarray(blocks(self.mask, factor).all((-3, -1))),
            saturated=None if self.saturated is None else np.asarray(blocks(self.saturated, factor).any((-3, -1))),
            empty=None if self.empty is None else block_sums(self.empty, factor),
        )


def turned(frames: NDArray, orientation: int) -> NDArray:
    """Frames (..., H, W) as PtyLab and ptypy turn them: bit 2 transposes, then bit 0 flips columns and bit 1 rows."""
    if orientation & 4:
        frames = np.swapaxes(frames, -1, -2)
    if orientation & 1:
        frames = frames[..., ::-1]
    if orientation & 2:
        frames = frames[..., ::-1, :]
    return np.ascontiguousarray(frames)


def binned_geometry(geometry: Geometry, factor: int, name: str) -> Geometry:
    """That of binned frames. Raises `DatasetError`: the frame is no multiple of twice the factor."""
    rows, columns = geometry.shape
    if rows % (2 * factor) or columns % (2 * factor):
        raise DatasetError(f"{name}: frames of {geometry.shape} cannot be binned by {factor}")
    return replace(geometry, pixel_size_m=factor * geometry.pixel_size_m, shape=(rows // factor, columns // factor))


def blocks(values: NDArray, factor: int) -> NDArray:
    """(..., H, W) as (..., H/factor, factor, W/factor, factor), a view where possible."""
    *front, rows, columns = values.shape
    return values.reshape(*front, rows // factor, factor, columns // factor, factor)


def block_sums(values: NDArray, factor: int) -> NDArray[np.float32]:
    """(..., H/factor, W/factor) float32 sums over blocks of factor x factor."""
    return blocks(values, factor).sum((-3, -1), dtype=np.float32)


@dataclass(frozen=True)
class Truth:
    """What a simulated bench was really like; in simulated runs only, for scoring.

    Attributes:
        object: (M, M) complex64 transmission on a grid of `object_pixel_m`, centred on the object's origin.
        object_pixel_m: pitch of that grid.
        probe: (K, K) complex64, square root of photons a pixel at the plan's bright exposure, on `probe_pixel_m`.
        probe_pixel_m: pitch of the probe's grid.
        distance_m: object to camera.
        positions_m: (N, 2) true (y, x) of the illumination on the object for each position index of the plan's
            calibration scan, in metres; NaN where not (yet) visited.
    """

    object: NDArray[np.complex64]
    object_pixel_m: float
    probe: NDArray[np.complex64]
    probe_pixel_m: float
    distance_m: float
    positions_m: NDArray[np.float64]
