"""Camera, light and bench together."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from drivers.base import (
    Camera,
    Cancelled,
    ConnectionLost,
    DeviceTimeout,
    Light,
    LightState,
    LimitError,
    NotReadyError,
    Stage,
    StagePosition,
)
from drivers.clock import VirtualClock
from simulators.bench import BenchSettings, build_bench
from simulators.faults import Fault, FaultyCamera, FaultyStage
from simulators.light import SimulatedLight
from simulators.objects import Sample, draw_digit
from tests.simulators.bench_settings import PARK_M, SMALL

SAMPLE = Sample.from_drawing(draw_digit(4, 0), 0.9e-3, 8e-3, pitch_m=6.9e-6)
CENTRE = StagePosition(12.5e-3, 12.5e-3)
PARK = StagePosition(*PARK_M)


def opened(settings=SMALL, seed=5, clock=None):
    clock = clock or VirtualClock(1000.0)
    camera, stage, light, bench = build_bench(settings, SAMPLE, clock, seed)
    for device in (camera, stage, light):
        device.open()
    stage.home()
    return camera, stage, light, bench


def test_devices_keep_their_protocols():
    camera, _, light, _ = build_bench(SMALL, SAMPLE, VirtualClock(), 0)
    assert isinstance(light, Light)
    for call in (camera.acquire, lambda: camera.info, lambda: camera.set_exposure(0.1)):
        with pytest.raises(NotReadyError, match="camera: is closed; open it first"):
            call()
    camera.open()
    assert isinstance(camera, Camera)
    info = camera.info
    assert info.simulated
    assert (info.shape, info.bit_depth, info.saturation_adu) == ((128, 128), 16, 65535)
    assert info.exposure_s.contains(0.3)
    camera.close()
    camera.close()


def test_exposure_is_accepted_within_limits_and_takes_its_time():
    clock = VirtualClock(1000.0)
    camera, *_ = opened(clock=clock)
    assert camera.set_exposure(0.25) == 0.25
    for seconds in (0.0, 11.0, float("nan")):
        with pytest.raises(LimitError, match="camera: exposure"):
            camera.set_exposure(seconds)
    begin = clock.now()
    exposure = camera.acquire()
    assert exposure.exposure_s == 0.25
    assert exposure.time == pytest.approx(begin + 0.25, abs=1e-6)
    assert clock.now() == pytest.approx(begin + 0.25 + SMALL.frame_overhead_s, abs=1e-6)
    assert exposure.image.shape == (128, 128)
    assert exposure.image.dtype == np.uint16


def test_a_long_exposure_can_be_cancelled():
    clock = VirtualClock()
    camera, *_ = opened(clock=clock)
    camera.set_exposure(10.0)
    begin = clock.monotonic()
    with pytest.raises(Cancelled, match="exposure of 10 s was cancelled"):
        camera.acquire(lambda: clock.monotonic() > begin + 1)
    assert clock.monotonic() - begin < 1.1


def test_light_starts_open_and_the_bench_is_dark_when_it_is_blocked():
    camera, stage, light, bench = opened(replace(SMALL, hot_pixels=0))
    assert light.state is LightState.OPEN
    stage.move_to(CENTRE)
    camera.set_exposure(0.3)
    bright = camera.acquire().image.astype(float) - 200
    light.block()
    assert light.state is LightState.BLOCKED
    assert bench.intensity() is None
    dark = camera.acquire().image.astype(float) - 200
    assert abs(dark.mean()) < 0.2
    assert bright.mean() > 50
    light.unblock()
    assert bench.intensity() is not None
    closed = SimulatedLight()
    with pytest.raises(NotReadyError, match="light: cannot become blocked because it is closed"):
        closed.block()


def test_the_empty_beam_holds_the_photons_of_the_light():
    camera, stage, _, bench = opened(replace(SMALL, hot_pixels=0))
    stage.move_to(PARK)
    assert bench.intensity().sum() == pytest.approx(SMALL.photons_per_second, rel=5e-3)
    camera.set_exposure(0.3)
    electrons = (camera.acquire().image.astype(float) - 200) * 0.11
    assert electrons.sum() == pytest.approx(SMALL.photons_per_second * 0.3, rel=5e-3)
    stage.move_to(CENTRE)
    passed = np.sum(np.abs(bench.probe * SAMPLE.transmission(13.8e-6, bench.probe.shape, (0.0, 0.0))) ** 2)
    assert bench.intensity().sum() == pytest.approx(SMALL.photons_per_second * passed, rel=0.05)


def test_the_sample_moves_so_the_beam_moves_the_other_way():
    exact = replace(SMALL, backlash_m=0.0, repeatability_m=0.0, rotation_rad=0.0)
    _, stage, _, bench = opened(exact)
    stage.move_to(StagePosition(CENTRE.y + 1e-4, CENTRE.x - 5e-5))
    assert bench.true_object_position() == pytest.approx((-1e-4, 5e-5), abs=1e-9)
    _, stage, _, bench = opened(replace(exact, stage_to_object=((0.0, 1.0), (-1.0, 0.0))))
    stage.move_to(StagePosition(CENTRE.y + 1e-4, CENTRE.x - 5e-5))
    assert bench.true_object_position() == pytest.approx((-5e-5, -1e-4), abs=1e-9)


def test_light_falls_where_the_object_lets_it_through():
    """At almost no distance the pattern is the object's image under the beam, in the camera's orientation."""
    near = replace(SMALL, distance_m=50e-6, distance_error_m=0.0, backlash_m=0.0, repeatability_m=0.0, rotation_rad=0.0)
    _, stage, _, bench = opened(near)
    stage.move_to(StagePosition(CENTRE.y - 1e-4, CENTRE.x + 2e-4))
    beam = bench.true_object_position()
    assert beam == pytest.approx((1e-4, -2e-4), abs=1e-9)
    image = bench.intensity()
    full = np.abs(bench.truth_probe(13.8e-6, 128) * SAMPLE.transmission(13.8e-6, (128, 128), beam)) ** 2
    expected = full * SMALL.photons_per_second
    assert np.abs(image - expected).sum() / expected.sum() < 0.05
    # And the patch is the truth, cut out at the beam: 1e-4 m is not a whole number of pixels, 138 um is ten.
    truth = bench.truth_object(13.8e-6, 128)
    patch = SAMPLE.transmission(13.8e-6, (40, 40), (10 * 13.8e-6, -5 * 13.8e-6))
    assert np.abs(patch - truth[54:94, 39:79]).max() < 1e-4


def test_an_exposure_series_computes_the_light_once(monkeypatch):
    camera, stage, light, bench = opened()
    stage.move_to(CENTRE)
    calls = []
    compute = bench.intensity_at
    monkeypatch.setattr(bench, "intensity_at", lambda position: (calls.append(position), compute(position))[1])
    for exposure in (1e-3, 1e-2, 0.1):
        camera.set_exposure(exposure)
        camera.acquire()
    light.block()
    camera.acquire()
    light.unblock()
    camera.acquire()
    assert len(calls) == 1
    stage.move_to(StagePosition(CENTRE.y + 1e-5, CENTRE.x))
    camera.acquire()
    assert len(calls) == 2
    with pytest.raises(ValueError, match="read-only"):
        bench.intensity()[0, 0] = 1


def test_the_light_may_be_asked_for_from_many_threads():
    _, stage, _, bench = opened()
    stage.move_to(CENTRE)
    found = []
    threads = [threading.Thread(target=lambda: found.append(bench.intensity())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one is found[0] for one in found)


def test_a_run_is_reproduced_by_its_seed_also_from_the_middle():
    targets = [StagePosition(CENTRE.y + 3e-5 * k, CENTRE.x - 4e-5 * k) for k in range(4)]

    def frames(seed, which):
        camera, stage, _, _ = opened(seed=seed)
        camera.set_exposure(0.1)
        images = []
        for k in which:
            stage.move_to(StagePosition(targets[k].y - 5e-5, targets[k].x - 5e-5))
            stage.move_to(targets[k])
            camera.seed_next(2, k)
            images.append(camera.acquire().image)
        return images

    whole = frames(5, range(4))
    for one, other in zip(frames(5, (2, 3)), whole[2:], strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(frames(6, (0,))[0], whole[0])

    camera, *_ = opened()
    camera.seed_next(2, 0)
    one, two = camera.acquire().image, camera.acquire().image
    camera.seed_next(2, 1)
    assert np.array_equal(camera.acquire().image, two)
    camera.seed_next(3, 0)
    assert not np.array_equal(camera.acquire().image, one)


def test_truth_is_told():
    _, _, _, bench = opened(replace(SMALL, oversampling=2))
    assert bench.distance_m == pytest.approx(20.1e-3)
    assert bench.probe_pixel_m == pytest.approx(6.9e-6)
    assert np.sum(np.abs(bench.probe) ** 2) == pytest.approx(1, abs=1e-5)
    assert bench.truth_probe(13.8e-6, 64).shape == (64, 64)
    truth = bench.truth_object(6.9e-6, 200)
    assert truth.dtype == np.complex64
    assert truth[100 - 60 : 100 + 60].real.max() == pytest.approx(1, abs=1e-3)


def test_settings_are_gathered_from_sections_by_name():
    sections = [
        {"wavelength_m": 561e-9, "distance_m": 20e-3, "pinhole_diameter_m": 500e-6},
        {
            name: getattr(SMALL, name)
            for name in BenchSettings.__dataclass_fields__
            if name not in ("wavelength_m", "distance_m", "pinhole_diameter_m")
        }
        | {"driver": "simulated", "approach_m": 1.0},
    ]
    assert BenchSettings.gather(*sections) == SMALL
    with pytest.raises(TypeError, match="wavelength_m"):
        BenchSettings.gather(sections[1])


def test_faults_happen_when_told_and_only_then():
    camera, stage, _, _ = opened()
    lost = ConnectionLost("camera", "unplugged; plug it in")
    faulty = FaultyCamera(camera, Fault("acquire", 2, lost))
    faulty.open()
    assert isinstance(faulty, Camera)
    faulty.set_exposure(1e-3)
    camera.seed_next(1, 0)
    first = faulty.acquire().image
    with pytest.raises(ConnectionLost, match="unplugged"):
        faulty.acquire()
    camera.seed_next(1, 0)
    assert np.array_equal(faulty.acquire().image, first)
    assert faulty.info == camera.info
    faulty.close()

    late = DeviceTimeout("stage", "did not arrive; look at it")
    broken = FaultyStage(stage, Fault("move_to", 1, late, repeats=2), Fault("position", 3, late))
    assert isinstance(broken, Stage)
    broken.open()
    broken.home()
    assert broken.homed
    for _ in range(2):
        with pytest.raises(DeviceTimeout):
            broken.move_to(CENTRE)
    assert broken.position() == StagePosition(0, 0)
    there = broken.move_to(CENTRE)
    assert broken.position() == there
    with pytest.raises(DeviceTimeout):
        broken.position()
    broken.stop()
    assert broken.info.simulated
    broken.close()
