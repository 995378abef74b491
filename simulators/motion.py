"""Motion along one axis as a function of time; any unit of length, the same throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Trapezoid:
    """From rest to rest: speed up, go on at the velocity, slow down; a short way never reaches the velocity.

    Attributes:
        distance: of the whole way, at least 0.
        velocity, acceleration: of the programme; a velocity of 0 never arrives.
    """

    distance: float
    velocity: float
    acceleration: float

    @property
    def peak(self) -> float:
        """The highest velocity on the way."""
        return min(self.velocity, math.sqrt(self.distance * self.acceleration))

    @property
    def duration(self) -> float:
        """Seconds to the end; infinite without velocity or acceleration."""
        if self.distance <= 0:
            return 0.0
        if self.peak <= 0:
            return math.inf
        return self.distance / self.peak + self.peak / self.acceleration

    def travelled(self, t: float) -> float:
        """The way after `t` seconds, 0 .. distance."""
        if t >= self.duration:
            return self.distance
        peak = self.peak
        if t <= 0 or peak <= 0:
            return 0.0
        ramp = peak / self.acceleration
        if t < ramp:
            return self.acceleration * t * t / 2
        if t > self.duration - ramp:
            return self.distance - self.acceleration * (self.duration - t) ** 2 / 2
        return peak * (t - ramp / 2)

    def velocity_at(self, t: float) -> float:
        """The velocity after `t` seconds."""
        if t <= 0 or t >= self.duration:
            return 0.0
        return min(self.peak, self.acceleration * t, self.acceleration * (self.duration - t))

    def time_at(self, way: float) -> float:
        """Seconds until `way` is behind, 0 .. duration; infinite when that never happens."""
        if way <= 0:
            return 0.0
        if way >= self.distance or self.peak <= 0:
            return self.duration
        ramp_way = self.peak**2 / (2 * self.acceleration)
        if way < ramp_way:
            return math.sqrt(2 * way / self.acceleration)
        if way > self.distance - ramp_way:
            return self.duration - math.sqrt(2 * (self.distance - way) / self.acceleration)
        return way / self.peak + self.peak / (2 * self.acceleration)


@dataclass(frozen=True)
class Braking:
    """From some velocity to rest.

    Attributes:
        velocity: at the beginning, at least 0.
        acceleration: of the slowing down, above 0.
    """

    velocity: float
    acceleration: float

    @property
    def distance(self) -> float:
        """The whole way to the standstill."""
        return self.velocity**2 / (2 * self.acceleration)

    @property
    def duration(self) -> float:
        """Seconds to the standstill."""
        return self.velocity / self.acceleration

    def travelled(self, t: float) -> float:
        """The way after `t` seconds."""
        t = min(max(t, 0.0), self.duration)
        return self.velocity * t - self.acceleration * t * t / 2

    def velocity_at(self, t: float) -> float:
        """The velocity after `t` seconds."""
        return max(0.0, self.velocity - self.acceleration * max(t, 0.0))

    def time_at(self, way: float) -> float:
        """Seconds until `way` is behind, 0 .. duration."""
        if way >= self.distance:
            return self.duration
        return (self.velocity - math.sqrt(self.velocity**2 - 2 * self.acceleration * max(way, 0.0))) / self.acceleration
