"""Which way round a scan is: eight flips and transposes of the frames times the sign of the positions.

Each is calibrated coarsely for a few epochs; the right one explains the frames best. Turning the frames by 180 degrees
*and* the positions' sign is only another name for the same thing (object and probe are turned as well), so the sixteen
fall into eight pairs that no data can tell apart, and eight short calibrations say all. A wrong sign alone is such a
turn of the frames alone; a flexible probe hides it at first, which is why losses and not looks decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.calibrate import calibrate
from recon.dataset import Ptychogram
from recon.stages import CalibrationSettings
from recon.streaming import Streamed

TURNED = 3
"""Both flips: the frames turned by 180 degrees. `a ^ TURNED` is turned orientation a."""
WARM, JOINT = 4, 8
"""Epochs of a trial."""
MOST_FRAMES = 64
"""Frames of a trial: those nearest to the middle of the scan, where they overlap most."""
CLEAR = 0.02
"""Loss of the second pair over that of the best, minus one, from which on the answer is clear."""


@dataclass(frozen=True)
class Orientation:
    """How to turn frames and positions.

    Attributes:
        frames: 0 .. 7 as PtyLab and ptypy count: bit 2 transposes, then bit 0 flips columns and bit 1 rows.
        sign: +1 leaves the positions, -1 turns their sign.
    """

    frames: int
    sign: int

    @property
    def same(self) -> Orientation:
        """The other name of this orientation: everything turned by 180 degrees."""
        return Orientation(self.frames ^ TURNED, -self.sign)

    @property
    def name(self) -> str:
        """Words for people."""
        words = [
            word for bit, word in ((4, "transposed"), (1, "columns flipped"), (2, "rows flipped")) if self.frames & bit
        ]
        return ", ".join(words or ["frames as they are"]) + (", positions reversed" if self.sign < 0 else "")


AS_GIVEN = Orientation(0, 1)
EVERY = tuple(Orientation(frames, sign) for frames in range(8) for sign in (1, -1))


@dataclass(frozen=True)
class Trial:
    """One orientation's short calibration: its loss, and the object (M, M) complex64 that it found."""

    orientation: Orientation
    loss: float
    object: NDArray[np.complex64]


@dataclass(frozen=True)
class Verdict:
    """All trials, the lowest loss first.

    Attributes:
        trials: sixteen, each beside its equal; fewer when it was stopped early.
        margin: loss of the second pair over that of the best, minus one.
    """

    trials: tuple[Trial, ...]
    margin: float

    @property
    def best(self) -> Orientation:
        return self.trials[0].orientation

    @property
    def clear(self) -> bool:
        """Whether the second pair is far enough behind."""
        return self.margin >= CLEAR

    @property
    def as_given(self) -> bool:
        """Whether the data are right as they are."""
        return AS_GIVEN in (self.best, self.best.same)


def turned(frames: NDArray, orientation: int) -> NDArray:
    """Frames (..., H, W) turned; see `Orientation.frames`."""
    if orientation & 4:
        frames = np.swapaxes(frames, -1, -2)
    if orientation & 1:
        frames = frames[..., ::-1]
    if orientation & 2:
        frames = frames[..., ::-1, :]
    return np.ascontiguousarray(frames)


def oriented(data: Ptychogram, orientation: Orientation) -> Ptychogram:
    """The data with frames and positions turned; positions keep their axes, (y, x)."""
    way = orientation.frames
    frames = turned(data.frames, way)
    return replace(
        data,
        frames=frames,
        positions_m=orientation.sign * data.positions_m,
        geometry=replace(data.geometry, shape=(frames.shape[1], frames.shape[2])),
        dark_variance=turned(data.dark_variance, way),
        mask=turned(data.mask, way),
        saturated=None if data.saturated is None else turned(data.saturated, way),
        empty=None if data.empty is None else turned(data.empty, way),
    )


def orient(
    data: Ptychogram | Streamed,
    settings: CalibrationSettings,
    *,
    ways: Sequence[int] = tuple(range(8)),
    frames: int = MOST_FRAMES,
    epochs: tuple[int, int] = (WARM, JOINT),
    device: str = "cpu",
    report: Callable[[int, int, str], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Verdict:
    """Rank the orientations of a scan.

    Args:
        data: as it is.
        settings: those of a calibration; stages are shortened, positions stay as the stage has them.
        ways: which turns of the frames to try.
        frames: at most so many, nearest to the scan's middle.
        epochs: of the warm and of the joint stage.
        device: where torch works.
        report: called after every epoch with how many are done of how many, and of which orientation.
        stop: asked after every epoch; true ranks what has been tried.

    Raises:
        DatasetError: as `calibrate`.
    """
    centred = data.positions_m - data.positions_m.mean(0)
    near = np.sort(np.argsort(np.hypot(*centred.T), kind="stable")[:frames])
    chosen = replace(data, positions_m=centred).select(near)
    part = chosen.load() if isinstance(chosen, Streamed) else chosen
    short = replace(
        settings,
        warm_epochs=epochs[0],
        joint_epochs=epochs[1],
        refine_epochs=0,
        full_epochs=0,
        polish_epochs=0,
        refine_positions=False,
    )
    trials: list[Trial] = []
    total = len(ways) * sum(epochs)
    for number, way in enumerate(ways):
        orientation = Orientation(way, 1)
        done = number * sum(epochs)

        def shown(epoch: object, name: str = orientation.name, done: int = done) -> None:
            report(done + epoch.epoch, total, name)  # type: ignore[attr-defined]

        found = calibrate(oriented(part, orientation), short, device=device, report=shown, stop=stop)
        if found.interrupted and trials:
            break
        obj = found.object
        trials.append(Trial(orientation, float(found.loss[-1]), obj))
        # Index M//2 stays where it is.
        same = np.roll(obj[::-1, ::-1], 1, (0, 1)) if len(obj) % 2 == 0 else obj[::-1, ::-1]
        trials.append(Trial(orientation.same, float(found.loss[-1]), np.ascontiguousarray(same)))
        if stop():
            break
    # Of two equals the one with fewer words comes first.
    trials.sort(key=lambda t: (t.loss, t.orientation.sign < 0, t.orientation.frames.bit_count()))
    if trials[1].orientation == AS_GIVEN:
        trials[:2] = trials[1::-1]
    margin = trials[2].loss / trials[0].loss - 1 if len(trials) > 2 and trials[0].loss > 0 else 0.0
    return Verdict(tuple(trials), margin)
