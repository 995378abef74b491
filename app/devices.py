"""From a profile to devices. Nothing moves and no light changes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import numpy as np

from app.acquire.plan import Plan
from app.profile import Profile, ProfileError
from app.samples import make_sample
from drivers.base import Camera, Light, LightState, Stage
from drivers.basler import BaslerCamera, BaslerSettings
from drivers.clock import Clock, SystemClock, VirtualClock
from drivers.manual import Ask, ManualLight, nobody
from drivers.thorlabs import ThorlabsSettings, ThorlabsStage
from recon.dataset import Truth
from recon.streaming import available_memory
from simulators.bench import Bench, BenchSettings, build_bench
from simulators.camera import SimulatedCamera
from simulators.light import SimulatedLight
from simulators.stage import SimulatedStage

FIELD_BYTES = 40
"""Of each point of a simulated field, as measured: itself, its transform and what is made of them."""
SURE_BYTES = 2e9
"""Memory that is taken without asking whether there is as much."""
START_OF_SIMULATED_TIME = 1_704_067_200.0
"""2024-01-01: simulated time does not depend on today, so that equal runs are equal files."""


class Wire(Protocol):
    """What has to be there before devices can be opened: emulated controllers on their ports."""

    def open(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Devices:
    """What a run is done with; a context manager that opens and closes them.

    Attributes:
        camera, stage, light, clock: the bench.
        sample: what lies on the simulated stage, as it was asked for; "" on a real bench.
        seed: of the simulated noise.
        true_position: simulated benches: true (y, x) metres of the illumination on the object now.
        truth: simulated benches: the `Truth` of a plan, positions still unknown.
        seed_frame: simulated benches: called before each frame with its stream's code and its index, which choose the
            frame's noise, so that a resumed or repeated run takes the same frames.
        seed_visit: simulated benches: called before a move with the number of the visit to that place, 0 for the first:
            no stage comes back to the very same place.
        wires: opened before the devices and closed after them.
    """

    camera: Camera
    stage: Stage
    light: Light
    clock: Clock
    sample: str = ""
    seed: int = 0
    true_position: Callable[[], tuple[float, float]] | None = None
    truth: Callable[[Plan], Truth] | None = None
    seed_frame: Callable[[int, int], None] | None = None
    seed_visit: Callable[[int], None] | None = None
    wires: tuple[Wire, ...] = ()

    def open(self) -> None:
        """Open all, or none when one fails. Raises `InstrumentError`."""
        opened: list[Camera | Stage | Light | Wire] = []
        try:
            everything: tuple[Camera | Stage | Light | Wire, ...] = (*self.wires, self.camera, self.stage, self.light)
            for device in everything:
                device.open()
                opened.append(device)
        except BaseException:
            for device in reversed(opened):
                device.close()
            raise

    def close(self) -> None:
        """Close all, each also when another fails to; the first failure is raised."""
        failures: list[BaseException] = []
        everything: tuple[Camera | Stage | Light | Wire, ...] = (
            self.camera,
            self.stage,
            self.light,
            *reversed(self.wires),
        )
        for device in everything:
            try:
                device.close()
            except BaseException as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def __enter__(self) -> Devices:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_memory(profile: Profile) -> None:
    """Raise `ProfileError` where the fields of a simulated frame do not fit into the memory that is free."""
    assert profile.simulation is not None
    fine = profile.simulation.padding * profile.simulation.oversampling
    rows, columns = profile.camera.shape
    needed = FIELD_BYTES * fine**2 * max(rows, columns) ** 2
    if needed > SURE_BYTES and needed > (free := available_memory()):
        raise ProfileError(
            f"profile {profile.name!r}: camera.shape {rows} x {columns}: simulating one takes {needed / 1e9:.3g} GB, "
            f"{free / 1e9:.3g} GB are free; choose a smaller one"
        )


def open_devices(
    profile: Profile, seed: int = 0, sample: str | None = None, clock: Clock | None = None, ask: Ask = nobody
) -> Devices:
    """The devices that a profile names, still closed: `with open_devices(...) as devices`.

    Args:
        profile: which devices and how they are set.
        seed: of simulated noise and stage errors.
        sample: what lies on a simulated stage: "digit:4" or "digit:4:SEED", "mnist:17" (of the test set),
            "idx:FILE:17", a picture or an .npy file, "relief:" before one for a phase; None takes the profile's.
        clock: default: virtual time when everything is simulated, else real time.
        ask: reaches a person, where the light is a manual one.

    Raises:
        ImageSourceError, SampleError: the sample cannot be had.
        ProfileError: emulated devices on a system that has none.
    """
    in_numbers = {profile.camera.driver, profile.stage.driver} == {"simulated"}
    clock = clock or (VirtualClock(START_OF_SIMULATED_TIME) if in_numbers else SystemClock())
    if not profile.simulated:
        return Devices(
            camera=BaslerCamera(_basler_settings(profile), clock),
            stage=ThorlabsStage(_thorlabs_settings(profile), clock),
            light=ManualLight(ask),
            clock=clock,
        )
    _require_memory(profile)
    spec = profile.sample.object if sample is None else sample
    settings = _bench_settings(profile)
    simulated_camera, simulated_stage, beam, bench = build_bench(settings, make_sample(spec, profile), clock, seed)
    camera, seed_frame = _camera(profile, simulated_camera, clock)
    stage, wires = _stage(profile, simulated_stage, clock)
    # Where the light or the carriage is real, nobody knows the truth.
    known = profile.camera.driver != "basler" and profile.stage.driver != "thorlabs"
    return Devices(
        camera=camera,
        stage=stage,
        light=_light(profile, beam, ask),
        clock=clock,
        sample=spec,
        seed=seed,
        true_position=bench.true_object_position if known else None,
        truth=(lambda plan: bench_truth(bench, profile, plan)) if known else None,
        seed_frame=seed_frame,
        seed_visit=None if profile.stage.driver == "thorlabs" else simulated_stage.seed_visit,
        wires=wires,
    )


def _bench_settings(profile: Profile) -> BenchSettings:
    if profile.simulation is None:
        raise ProfileError(f"profile {profile.name!r}: simulated devices need a [simulation] section; add one")
    sections = (profile.geometry, profile.camera, profile.stage, profile.light, profile.simulation)
    return BenchSettings.gather(*(section.model_dump() for section in sections))


def _camera(
    profile: Profile, simulated: SimulatedCamera, clock: Clock
) -> tuple[Camera, Callable[[int, int], None] | None]:
    """The camera, and what chooses the noise of its frames where that can be chosen."""
    if profile.camera.driver == "simulated":
        return simulated, simulated.seed_next
    if profile.camera.driver == "basler":
        return BaslerCamera(_basler_settings(profile), clock), None
    try:
        from simulators.pylon_wire import SERIAL, PylonWire
    except ImportError as error:
        raise _not_here(profile, "camera", error) from None
    if profile.camera.serial not in ("", SERIAL):
        raise ProfileError(
            f"profile {profile.name!r}: camera.serial: {profile.camera.serial!r} is not the emulated camera's, "
            f"{SERIAL!r}; remove it, or choose the driver basler"
        )
    wire = PylonWire(simulated.source, clock, profile.emulation.longest_exposure_s, origin=profile.camera.origin)
    # By its number, so that a real camera that happens to be connected is left alone.
    settings = replace(_basler_settings(profile), serial=SERIAL)
    return BaslerCamera(settings, clock, wire), simulated.seed_next


def _stage(profile: Profile, simulated: SimulatedStage, clock: Clock) -> tuple[Stage, tuple[Wire, ...]]:
    if profile.stage.driver == "simulated":
        return simulated, ()
    if profile.stage.driver == "thorlabs":
        return ThorlabsStage(_thorlabs_settings(profile), clock), ()
    try:
        from simulators.apt_wire import AptWire
    except ImportError as error:
        raise _not_here(profile, "stage", error) from None
    s = profile.stage
    # The lower switch lies where homing ends at the zero of the simulated rail.
    switches = (-s.homing_offset_m, s.travel_m + s.homing_offset_m)
    wire = AptWire(
        simulated.carriage, s.controller, profile.emulation.speed, channels=s.channels, switches_m=switches, clock=clock
    )
    settings = _thorlabs_settings(profile, serials=wire.ports, simulated=True)
    return ThorlabsStage(settings, clock), (wire,)


def _light(profile: Profile, beam: SimulatedLight, ask: Ask) -> Light:
    if profile.light.driver == "simulated":
        return beam
    # The person's hand on a simulated bench: what they confirm happens to the simulated beam.
    beam.open()
    return ManualLight(ask, lambda state: beam.unblock() if state is LightState.OPEN else beam.block())


def _basler_settings(profile: Profile) -> BaslerSettings:
    c = profile.camera
    return BaslerSettings(
        shape=c.shape,
        pixel_size_m=c.pixel_size_m,
        bit_depth=c.bit_depth,
        electrons_per_adu=c.electrons_per_adu,
        black_level_adu=c.black_level_adu,
        serial=c.serial,
        origin=c.origin,
        gain_db=c.gain_db,
        min_exposure_s=c.min_exposure_s,
        max_exposure_s=c.max_exposure_s,
    )


def _thorlabs_settings(profile: Profile, **changes: object) -> ThorlabsSettings:
    return ThorlabsSettings.gather(profile.stage.model_dump(), **changes)


def _not_here(profile: Profile, device: str, error: ImportError) -> ProfileError:
    return ProfileError(
        f"profile {profile.name!r}: {device}.driver: an emulated {device} needs a POSIX system ({error}); use simulated"
    )


def bench_truth(bench: Bench, profile: Profile, plan: Plan) -> Truth:
    """What a simulated bench is like, on the camera's pitch and over all that the plan illuminates."""
    pixel = profile.camera.pixel_size_m
    positions = np.array(plan.positions_m).reshape(-1, 2)
    reach = float(np.abs(positions).max()) * 1.02 + len(bench.probe) * bench.probe_pixel_m / 2
    size = 2 * int(np.ceil(max(reach, profile.reconstruction.field_m / 2) / pixel)) + 4
    photons = profile.light.photons_per_second * plan.calibration_exposure_s
    return Truth(
        object=bench.truth_object(pixel, size),
        object_pixel_m=pixel,
        probe=(bench.probe * np.float32(np.sqrt(photons))).astype(np.complex64),
        probe_pixel_m=bench.probe_pixel_m,
        distance_m=bench.distance_m,
        positions_m=np.full((len(positions), 2), np.nan),
    )
