"""What is uncertain beside the object: positions, light of each stop, distance, and the map from stage to camera.

Each uncertain quantity is a *nuisance* with a normal prior, counted in its standard deviations. A frame depends on a
few of them: on the place and the light of the stop at which it was taken, which frames of other exposures at that stop
share, and on what all frames share. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.errorbars import Uncertainty

AFFINE = ("rotation", "shear", "anisotropy")


def affine_moves(positions_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2, 3) metres (y, x) that positions (N, 2) move for one unit of rotation, shear and anisotropy.

    About their middle, as in `recon.uncertainty`.
    """
    y, x = (positions_m - positions_m.mean(0)).T
    return np.stack([np.stack([-x, x, y], 1), np.stack([y, y, -x], 1)], 1)


@dataclass(frozen=True)
class Imperfections:
    """Standard deviations of what an estimate is told; 0 is exact.

    Attributes:
        position_m: (N, 2) of each frame's place (y, x), independent from stop to stop.
        flux: relative, of the light at each stop (its root is what has the normal prior).
        distance_m: of the distance.
        affine: (3,) of rotation, shear and anisotropy of all positions, dimensionless.
        stops: (N,) at which stop each frame was taken; frames of one stop share place and light.
    """

    position_m: NDArray[np.float64]
    flux: float
    distance_m: float
    affine: NDArray[np.float64]
    stops: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.stops)
        if self.position_m.shape != (count, 2) or self.affine.shape != (3,):
            raise ValueError(
                f"imperfections: {count} frames with deviations of positions {self.position_m.shape} and of the map "
                f"{self.affine.shape}; they are ({count}, 2) and (3,)"
            )
        values = np.concatenate((self.position_m.ravel(), self.affine, [self.flux, self.distance_m]))
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("imperfections: a standard deviation is negative or not finite")
        _, first, stop = np.unique(self.stops, return_index=True, return_inverse=True)
        if not np.array_equal(self.position_m, self.position_m[first][stop]):
            raise ValueError("imperfections: frames of one stop have different deviations of their position")

    @classmethod
    def of(
        cls,
        count: int,
        *,
        position_m: float = 0.0,
        flux: float = 0.0,
        distance_m: float = 0.0,
        stops: NDArray[np.int64] | None = None,
    ) -> Imperfections:
        """The same for each of `count` frames; every frame a stop of its own where none are given."""
        own = np.arange(count) if stops is None else stops
        return cls(np.full((count, 2), position_m), flux, distance_m, np.zeros(3), own)

    @property
    def none(self) -> bool:
        """Whether everything is exact."""
        return not (self.position_m.any() or self.flux or self.distance_m or self.affine.any())

    def calibrated(
        self, found: Uncertainty, positions_m: NDArray[np.float64], frames: NDArray[np.int64]
    ) -> Imperfections:
        """With what a calibration says of its own distance and map, and of the positions `frames` (N,) of its own.

        Its positions' deviations hold the map's, which is taken out: the map is one for all frames. `positions_m`
        (N, 2) are those of the frames here.
        """
        moves = affine_moves(positions_m)
        mapped = np.square(moves * found.affine_sigma).sum(2)
        own = np.sqrt(np.maximum(0.0, np.square(found.position_sigma_m[frames]) - mapped))
        return replace(self._shared(found), position_m=own)

    def reused(self, found: Uncertainty) -> Imperfections:
        """With what the calibration of another scan says of distance and map; positions are this scan's own."""
        return self._shared(found)

    def _shared(self, found: Uncertainty) -> Imperfections:
        distance = found.distance_sigma_m if np.isfinite(found.distance_sigma_m) else 0.0
        return replace(self, distance_m=distance, affine=np.asarray(found.affine_sigma, np.float64))


@dataclass(frozen=True)
class FrameNuisances:
    """The uncertain quantities, numbered.

    Attributes:
        given: their standard deviations.
        positions_m: (N, 2) of the frames, as told.
        distance_m: as told.
        names: (T,) what each is: "y", "x", "flux", "distance", "rotation", "shear", "anisotropy".
        index: (N, K) numbers of those that each frame depends on.
    """

    given: Imperfections
    positions_m: NDArray[np.float64]
    distance_m: float
    names: tuple[str, ...]
    index: NDArray[np.int64]

    @classmethod
    def numbered(cls, given: Imperfections, positions_m: NDArray[np.float64], distance_m: float) -> FrameNuisances:
        """Those whose deviation is not zero."""
        _, stop = np.unique(given.stops, return_inverse=True)
        stops, names, columns = int(stop.max()) + 1, list[str](), list[NDArray[np.int64]]()
        own = [("y", given.position_m[:, 0].any()), ("x", given.position_m[:, 1].any()), ("flux", given.flux > 0)]
        for name, free in own:
            if free:
                columns.append(stop + len(names))
                names += [name] * stops
        shared = [("distance", given.distance_m > 0), *zip(AFFINE, given.affine > 0, strict=True)]
        for name, free in shared:
            if free:
                columns.append(np.full(len(stop), len(names)))
                names.append(name)
        index = np.stack(columns, 1) if columns else np.zeros((len(stop), 0), np.int64)
        return cls(given, positions_m, distance_m, tuple(names), index)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def kinds(self) -> tuple[str, ...]:
        """(K,) what each column of `index` is."""
        return tuple(self.names[int(k)] for k in self.index[0])

    def moves(self) -> NDArray[np.float64]:
        """(N, K, 2) metres (y, x) that each frame's place moves for one standard deviation of each of its nuisances."""
        count, kinds = len(self.index), self.kinds
        found = np.zeros((count, len(kinds), 2), np.float64)
        affine = affine_moves(self.positions_m) * self.given.affine
        for k, kind in enumerate(kinds):
            if kind in ("y", "x"):
                axis = "yx".index(kind)
                found[:, k, axis] = self.given.position_m[:, axis]
            elif kind in AFFINE:
                found[:, k] = affine[:, :, AFFINE.index(kind)]
        return found

    def places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) positions at nuisances (T,)."""
        moved: NDArray[np.float64] = np.einsum("nka,nk->na", self.moves(), values[self.index])
        return self.positions_m + moved

    def distance(self, values: NDArray[np.float64]) -> float:
        """Distance at nuisances (T,)."""
        return self.distance_m + self.given.distance_m * float(values[self._of("distance")].sum())

    def roots(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) root of the light over that told, at nuisances (T,)."""
        if "flux" not in self.kinds:
            return np.ones(len(self.index))
        return 1 + 0.5 * self.given.flux * values[self.index[:, self.kinds.index("flux")]]

    def _of(self, name: str) -> NDArray[np.bool_]:
        return np.array([known == name for known in self.names], bool)

    def summary(self, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> dict[str, float]:
        """Numbers for reports, of posterior means (T,) and deviations (T,), in the nuisances' deviations.

        Of what each stop has for itself the rms over the stops: how far it was moved, and how uncertain it is left.
        """
        found: dict[str, float] = {}
        y, x = self._of("y"), self._of("x")
        if y.any() or x.any():
            per_stop = {name: self._per_stop(axis) for axis, name in enumerate("yx")}
            moved = [mean[self._of(n)] * per_stop[n] for n in "yx" if self._of(n).any()]
            left = [deviation[self._of(n)] * per_stop[n] for n in "yx" if self._of(n).any()]
            prior = [per_stop[n] for n in "yx" if self._of(n).any()]
            found |= {"position_sigma_m": _rms(prior), "position_moved_m": _rms(moved), "position_left_m": _rms(left)}
        if self.given.flux > 0:
            of = self._of("flux")
            found |= {
                "flux_sigma": self.given.flux,
                "flux_moved": self.given.flux * _rms([mean[of]]),
                "flux_left": self.given.flux * _rms([deviation[of]]),
            }
        if self.given.distance_m > 0:
            of = self._of("distance")
            found |= {
                "distance_sigma_m": self.given.distance_m,
                "distance_moved_m": self.given.distance_m * float(mean[of][0]),
                "distance_left_m": self.given.distance_m * float(deviation[of][0]),
            }
        for name, sigma in zip(AFFINE, self.given.affine, strict=True):
            if sigma > 0:
                of = self._of(name)
                found |= {f"{name}_sigma": float(sigma), f"{name}_moved": float(sigma * mean[of][0])}
        return found

    def _per_stop(self, axis: int) -> NDArray[np.float64]:
        _, first = np.unique(self.given.stops, return_index=True)
        chosen: NDArray[np.float64] = self.given.position_m[first, axis]
        return chosen


def _rms(parts: list[NDArray[np.float64]]) -> float:
    return float(np.sqrt(np.square(np.concatenate(parts)).mean()))
