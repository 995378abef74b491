"""What a window is opened on: a profile's bench, or a run that is shown again. Closed devices; nothing moves here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.bench.characterisation import Measured, chosen
from app.devices import START_OF_SIMULATED_TIME, Devices, open_devices
from app.live.pace import PacedClock
from app.live.state import Kind
from app.profile import Profile, load_profile
from app.replaying import Replay
from drivers.clock import Clock
from drivers.manual import Ask


@dataclass(frozen=True)
class Setup:
    """A bench.

    Attributes:
        name: the profile's as it was asked for, or the run's file.
        kind: simulated, replay or real.
        profile: as loaded; of a replay the recorded one.
        known: with everything measured in place of what it assumes.
        measured: what is known of this bench, or None.
        devices: closed.
        seed, sample: as asked for.
        replay: of a replay, else None.
        speed: bench seconds a real second.
    """

    name: str
    kind: Kind
    profile: Profile
    known: Profile
    measured: Measured | None
    devices: Devices
    seed: int = 0
    sample: str | None = None
    replay: Replay | None = None
    speed: float = 1.0

    @classmethod
    def of_profile(
        cls,
        name: str,
        ask: Ask,
        seed: int = 0,
        sample: str | None = None,
        characterisation: Path | None = None,
        speed: float = 1.0,
        clock: Clock | None = None,
    ) -> Setup:
        """The bench of a profile; simulated devices work in real time, `speed` times as fast.

        Raises: `ProfileError`, and what `open_devices` raises.
        """
        profile = load_profile(name)
        measured = chosen(profile, characterisation)
        bench = profile if measured is None else measured.content.for_devices(profile)
        known = profile if measured is None else measured.content.applied_to(profile)
        in_numbers = {profile.camera.driver, profile.stage.driver} == {"simulated"}
        if clock is None and in_numbers:
            clock = PacedClock(speed, START_OF_SIMULATED_TIME if speed != 1.0 else None)
        devices = open_devices(bench, seed, sample, clock, ask)
        kind = Kind.SIMULATED if profile.simulated else Kind.REAL
        paced = clock.speed if isinstance(clock, PacedClock) else 1.0
        return cls(name, kind, profile, known, measured, devices, seed, sample, speed=paced)

    @classmethod
    def of_run(cls, path: Path) -> Setup:
        """A run to be shown again. Raises `DatasetError`."""
        replay = Replay.open(path)
        own = replay.recorded
        known = own.profile if own.measured is None else own.measured.content.applied_to(own.profile)
        return cls(
            path.name, Kind.REPLAY, own.profile, known, own.measured, replay.devices, own.seed, own.sample, replay
        )

    def close(self) -> None:
        """Let go of files; devices are closed by whoever opened them."""
        if self.replay is not None:
            self.replay.close()


MakeSetup = Callable[[Ask], Setup]
"""Makes a bench whose requests for a person go to the given `Ask`."""
