"""The mechanics of a simulated stage: two open-loop screws that do something slightly different from what is counted.

What the controller knows: microsteps since homing. What it does not: backlash, a random error of each arrival, and a
stage that is rotated, scaled and sheared against the camera. Whoever drives it (`SimulatedStage`, the emulated
controllers) moves the same counters and finds the same true positions.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEED_DOMAIN = 2


@dataclass(frozen=True)
class StageSettings:
    """What the simulated stage is and does wrong.

    Attributes:
        limits_y_m, limits_x_m: soft limits of the commanded displacement.
        centre_m: (y, x) displacement where the beam hits the sample's middle; linear errors are counted from it.
        velocity_m_s, acceleration_m_s2: of the trapezoidal profile.
        settling_s: wait after arrival.
        microsteps_per_m: of the controller; positions are whole microsteps.
        backlash_m: lost motion on reversal; nothing is lost on arrival in the direction of growing displacement.
        repeatability_m: standard deviation of the random error of an arrival, per axis.
        rotation_rad: true y = cos y - sin x, true x = sin y + cos x.
        scale_error: relative, of y and x.
        shear: x error per y displacement.
        start_m: (y, x) where the carriage stands before homing; the counter does not know.
    """

    limits_y_m: tuple[float, float]
    limits_x_m: tuple[float, float]
    centre_m: tuple[float, float]
    velocity_m_s: float = 1.5e-3
    acceleration_m_s2: float = 1.0e-3
    settling_s: float = 0.1
    microsteps_per_m: float = 2_184_533_333.0
    backlash_m: float = 0.0
    repeatability_m: float = 0.0
    rotation_rad: float = 0.0
    scale_error: tuple[float, float] = (0.0, 0.0)
    shear: float = 0.0
    start_m: tuple[float, float] = (1.0e-3, 1.0e-3)

    def linear_map(self) -> NDArray[np.float64]:
        """(2, 2) matrix from commanded to true displacement about the centre, both (y, x)."""
        c, s = np.cos(self.rotation_rad), np.sin(self.rotation_rad)
        stretch = np.array([[1 + self.scale_error[0], 0.0], [self.shear, 1 + self.scale_error[1]]])
        return np.array([[c, -s], [s, c]]) @ stretch


class Carriage:
    """Counters and carriage of two axes, 0 for y and 1 for x; safe from any thread.

    The rail is where things are, the counter is what the controller believes: rail = counter + zero, in microsteps.
    The carriage follows the rail position of the screw within the play of its nut.

    Args:
        settings: what it does wrong.
        seed: of the random errors of arrivals, at least 0.
    """

    def __init__(self, settings: StageSettings, seed: int):
        self.settings = settings
        self.seed = seed
        self.step_m = 1.0 / settings.microsteps_per_m
        self._play = settings.backlash_m / self.step_m
        self._linear = settings.linear_map()
        self._lock = threading.RLock()
        self._visit = 0
        self._counter = np.zeros(2, np.int64)
        self._zero = np.rint(np.array(settings.start_m) * settings.microsteps_per_m).astype(np.int64)
        self._carriage = self._zero.astype(np.float64)
        self._arrival_error_m = np.zeros(2)

    @property
    def counter(self) -> NDArray[np.int64]:
        """(2,) microsteps (y, x), a copy: what the controllers count."""
        with self._lock:
            return self._counter.copy()

    @property
    def zero(self) -> NDArray[np.int64]:
        """(2,) microsteps (y, x), a copy: where on the rail the counters are zero."""
        with self._lock:
            return self._zero.copy()

    def true_displacement(self) -> NDArray[np.float64]:
        """(2,) float64 (y, x), metres: where the carriage really is, in the camera's axes. For the bench only."""
        with self._lock:
            offset = self._carriage * self.step_m - self.settings.centre_m
            return self._linear @ offset + self.settings.centre_m + self._arrival_error_m

    def seed_visit(self, visit: int) -> None:
        """Number the visit (0, 1, ..): arrivals from now on draw their random errors anew."""
        self._visit = visit

    def turn(self, axis: int, counter: int) -> None:
        """Turn one screw until its counter says `counter`; call it at every turning point of a motion."""
        with self._lock:
            self._counter[axis] = counter
            rail = float(self._counter[axis] + self._zero[axis])
            self._carriage[axis] = min(max(float(self._carriage[axis]), rail), rail + self._play)

    def arrive(self, axis: int, upwards: bool) -> None:
        """A move has ended at its target: draw the random error of this arrival.

        It depends on the seed, the visit, the axis, the target and the direction of approach, and on nothing else.
        """
        with self._lock:
            target = int(self._counter[axis])
            # Seeds must not be negative, and targets may be.
            rng = np.random.default_rng([self.seed, _SEED_DOMAIN, self._visit, axis, target % 2**63, int(upwards)])
            self._arrival_error_m[axis] = float(rng.normal(0.0, self.settings.repeatability_m))

    def count_from(self, axis: int, counter: int = 0) -> None:
        """From now on the present place is counted as `counter`; nothing moves."""
        with self._lock:
            self._zero[axis] += self._counter[axis] - counter
            self._counter[axis] = counter

    def reference(self, axis: int) -> None:
        """The present place is the reference: counted as zero, reached without random error."""
        with self._lock:
            self.count_from(axis)
            self._arrival_error_m[axis] = 0.0
