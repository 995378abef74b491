"""From a profile to devices. Nothing moves and no light changes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from app.acquire.plan import Plan
from app.profile import Profile
from drivers.base import Camera, Clock, Light, LightState, Stage, VirtualClock
from drivers.manual import Ask, ManualLight, nobody
from recon.dataset import Truth
from recon.decoders.images import ImageSourceError, load_mnist
from simulators import objects
from simulators.bench import Bench, BenchSettings, build_bench

MNIST_INK = 20 / 28
"""Height of the digit in an MNIST image, of the image's side."""
START_OF_SIMULATED_TIME = 1_704_067_200.0
"""2024-01-01: simulated time does not depend on today, so that equal runs are equal files."""


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

    def open(self) -> None:
        """Open all, or none when one fails. Raises `InstrumentError`."""
        opened: list[Camera | Stage | Light] = []
        try:
            for device in (self.camera, self.stage, self.light):
                device.open()
                opened.append(device)
        except BaseException:
            for device in reversed(opened):
                device.close()
            raise

    def close(self) -> None:
        """Close all, each also when another fails to."""
        try:
            self.camera.close()
        finally:
            try:
                self.stage.close()
            finally:
                self.light.close()

    def __enter__(self) -> Devices:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_devices(
    profile: Profile, seed: int = 0, sample: str | None = None, clock: Clock | None = None, ask: Ask = nobody
) -> Devices:
    """The devices that a profile names, still closed: `with open_devices(...) as devices`.

    Args:
        profile: which devices and how they are set.
        seed: of simulated noise and stage errors.
        sample: what lies on a simulated stage: "digit:4" or "digit:4:SEED", "mnist:17" (of the test set),
            "idx:FILE:17", or a picture file; None takes the profile's.
        clock: default: virtual time for a simulated bench.
        ask: reaches a person, where the light is a manual one.

    Raises:
        ImageSourceError, SampleError: the sample cannot be had.
    """
    if profile.simulation is None:
        raise ImageSourceError(f"profile {profile.name!r}: has no [simulation] section and no driver for its devices")
    spec = sample or profile.sample.object
    settings = BenchSettings.gather(
        *(
            section.model_dump()
            for section in (profile.geometry, profile.camera, profile.stage, profile.light, profile.simulation)
        )
    )
    clock = clock or VirtualClock(START_OF_SIMULATED_TIME)
    camera, stage, beam, bench = build_bench(settings, make_sample(spec, profile), clock, seed)
    light: Light = beam
    if profile.light.driver == "manual":
        # The person's hand on a simulated bench: what they confirm happens to the simulated beam.
        beam.open()
        light = ManualLight(ask, lambda state: beam.unblock() if state is LightState.OPEN else beam.block())
    return Devices(
        camera=camera,
        stage=stage,
        light=light,
        clock=clock,
        sample=spec,
        seed=seed,
        true_position=bench.true_object_position,
        truth=lambda plan: bench_truth(bench, profile, plan),
        seed_frame=camera.seed_next,
    )


def make_sample(spec: str, profile: Profile) -> objects.Sample:
    """The simulated sample of a specification (see `open_devices`). Raises `ImageSourceError`, `SampleError`."""
    height, opaque = profile.sample.height_m, profile.sample.opaque_m
    kind, _, rest = spec.partition(":")
    if kind == "digit":
        digit, _, seed = rest.partition(":")
        return objects.Sample.from_drawing(
            objects.draw_digit(_number(digit, spec), _number(seed or "0", spec)), height, opaque
        )
    if kind == "mnist":
        images = load_mnist("test", 28).images
        index = _number(rest, spec)
        if index >= len(images):
            raise ImageSourceError(f"object {spec!r}: MNIST's test set holds images 0 .. {len(images) - 1}")
        return objects.Sample.from_image(images[index], height / MNIST_INK, opaque)
    if kind == "idx":
        path, _, index_text = rest.rpartition(":")
        image = objects.read_idx(path, _number(index_text, spec))
        return objects.Sample.from_image(image, height, opaque)
    if not Path(spec).is_file():
        raise ImageSourceError(
            f"object {spec!r}: is neither digit:4[:SEED], mnist:17, idx:FILE:17 nor a picture file that exists"
        )
    return objects.Sample.from_image(objects.read_picture(spec), height, opaque)


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


def _number(text: str, spec: str) -> int:
    if not text.isdecimal():
        raise ImageSourceError(f"object {spec!r}: {text!r} is not a whole number from 0; write digit:4 or mnist:17")
    return int(text)
