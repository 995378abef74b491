"""How the fields on the camera change with what is uncertain beside the object: operators of their derivatives.

About any values of the nuisances the field of frame j is psi_j + sum_k n_k dpsi_j/dn_k. Moving the sample changes the
resize weights along one axis, another distance the two Fresnel matrices, more light only the strength: each derivative
is a camera operator too, with some of its factors replaced by their difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.illumination import Illumination
from recon.imperfections import FrameNuisances
from recon.operator import COARSER, CameraOperator, Drawing

ROOM = 1
"""Pixels of the decoder's image that each frame's window is widened by, each way: what moves into sight."""
LONGEST_STEP = 0.5
"""Longest step of the differences in positions, pixels of the decoder's image."""
SHORTEST_STEP = 0.02
"""The shortest one: single precision."""


@dataclass(frozen=True)
class Directions:
    """Fields about some values of the nuisances, linearised.

    A frame's field is that of `operator` and R - 1 others, mixed: with n (K,) its nuisances beyond those values, and
    E = `mix` its coefficients, psi = sum_r c_r psi_r, c = (1, 0, ..) + n E.

    Attributes:
        operator: at those values; r = 0.
        others: r = 1, 2, ..: operators whose fields add up.
        roles: what changes in each of them: "rows", "columns" or "kernels".
        mix: (N, K, R).
        index: (N, K) numbers of the nuisances; see `FrameNuisances`.
        prior: (T,) where the prior's means lie from those values, in standard deviations.
    """

    operator: CameraOperator
    others: tuple[tuple[CameraOperator, ...], ...]
    roles: tuple[str, ...]
    mix: Tensor
    index: Tensor
    prior: Tensor

    @classmethod
    def at(
        cls,
        nuisances: FrameNuisances,
        values: NDArray[np.float64],
        light: Illumination,
        seconds: NDArray[np.float64],
        shape: tuple[int, int],
        drawing: Drawing,
        device: str = "cpu",
    ) -> Directions:
        """About `values` (T,), under a light whose distance and positions are those told."""
        roots, places = nuisances.roots(values), nuisances.places(values)
        told = replace(light.geometry, shape=shape)
        lit = replace(light, geometry=replace(told, distance_m=nuisances.distance(values)))

        def built(source: Illumination) -> CameraOperator:
            return CameraOperator.build(source, places, seconds * roots**2, shape, drawing, device)

        operator = built(lit)
        steps = np.arange(len(operator.probe), dtype=np.float64) - len(operator.probe) // 2
        samples = steps * COARSER * told.pixel_size_m
        kinds, moves, given = nuisances.kinds, nuisances.moves(), nuisances.given
        others: list[tuple[CameraOperator, ...]] = []
        roles: list[str] = []
        mix = np.zeros((len(seconds), len(kinds), 1))

        def joined(coefficients: NDArray[np.float64]) -> None:
            nonlocal mix
            mix = np.concatenate((mix, coefficients[:, :, None]), 2)

        operator, (rows, columns) = _widened(operator, places, samples, moves)
        moving = (replace(operator, rows=rows), replace(operator, columns=columns))
        for axis, along in enumerate(moving):
            if moves[:, :, axis].any():
                others.append((along,))
                roles.append(("rows", "columns")[axis])
                joined(moves[:, :, axis])
        if "distance" in kinds:
            step = given.distance_m
            middle = nuisances.distance(values)
            near, far = (
                built(replace(lit, geometry=replace(told, distance_m=middle + sign * step / 2))) for sign in (-1, 1)
            )
            others.append(
                (
                    replace(operator, kernel_y=far.kernel_y - near.kernel_y),
                    replace(operator, kernel_x=far.kernel_x - near.kernel_x),
                )
            )
            roles.append("kernels")
            joined(np.tile([float(kind == "distance") for kind in kinds], (len(seconds), 1)))
        if "flux" in kinds:
            mix[:, kinds.index("flux"), 0] = 0.5 * given.flux / roots

        def put(array: NDArray, kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=kind)

        return cls(
            operator,
            tuple(others),
            tuple(roles),
            put(mix, torch.float32),
            put(nuisances.index, torch.int64),
            put(-values, torch.float32),
        )

    def at_rest(self) -> Tensor:
        """(N, R) coefficients at those values themselves."""
        count, _, kinds = self.mix.shape
        rest = self.mix.new_zeros(count, kinds)
        rest[:, 0] = 1
        return rest

    def coefficients(self, beyond: Tensor) -> Tensor:
        """(N, R, S) c of nuisances (S, T)."""
        own = beyond.T[self.index]
        return self.at_rest()[:, :, None] + torch.einsum("nks,nkr->nrs", own, self.mix)

    def moved(self, coefficients: Tensor) -> CameraOperator:
        """The operator at coefficients (N, R) that belong to some nuisances."""
        found = self.operator
        found = replace(found, seconds=found.seconds * coefficients[:, 0].square())
        for r, (role, group) in enumerate(zip(self.roles, self.others, strict=True), 1):
            c = coefficients[:, r, None, None]
            if role == "rows":
                found = replace(found, rows=found.rows + c * group[0].rows)
            elif role == "columns":
                found = replace(found, columns=found.columns + c * group[0].columns)
            else:
                # One distance for all frames.
                far = coefficients[0, r]
                kernel_y, kernel_x = (a + far * b for a, b in self._kernels(group))
                found = replace(found, kernel_y=kernel_y, kernel_x=kernel_x)
        return found

    def _kernels(self, group: tuple[CameraOperator, ...]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        here = self.operator
        return (here.kernel_y, group[0].kernel_y), (here.kernel_x, group[1].kernel_x)


def _widened(
    operator: CameraOperator, places: NDArray[np.float64], samples: NDArray[np.float64], moves: NDArray[np.float64]
) -> tuple[CameraOperator, tuple[Tensor, Tensor]]:
    """The operator with wider windows, and its rows' and columns' change per metre (N, n, L) that positions move."""
    drawing, device = operator.drawing, operator.rows.device
    pixel = drawing.field_m / drawing.samples
    firsts = np.array(operator.corners)
    first = np.maximum(firsts - ROOM, 0)
    weights, slopes = [], []
    for axis, length in enumerate(operator.window):
        # The secant over a standard deviation serves moves of that size better than a tangent.
        far = float(np.sqrt(np.square(moves[:, :, axis]).sum(1)).max(initial=0.0))
        step = min(max(far, SHORTEST_STEP * pixel), LONGEST_STEP * pixel)
        chosen = first[:, axis, None] + np.arange(length + 2 * ROOM)

        def drawn(beyond: float, axis: int = axis, chosen: NDArray[np.int64] = chosen) -> NDArray[np.float64]:
            whole = drawing.weights(places[:, axis, None] + beyond + samples, axis)
            whole = np.pad(whole, ((0, 0), (0, 0), (0, chosen.shape[1])))
            return np.take_along_axis(whole, chosen[:, None, :], 2)

        weights.append(drawn(0.0))
        slopes.append((drawn(step) - drawn(-step)) / (2 * step))
    rows, columns, along_y, along_x = (
        torch.from_numpy(np.ascontiguousarray(v)).to(device=device, dtype=torch.float32) for v in (*weights, *slopes)
    )
    corners = [(int(r), int(c)) for r, c in first]
    return replace(operator, rows=rows, columns=columns, corners=corners), (along_y, along_x)
