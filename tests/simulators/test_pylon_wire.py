"""The simulated bench's frames through Basler's own library: the same, bit for bit."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.planning import make_plan
from app.acquire.preflight import require
from app.acquire.runner import Runner
from app.acquire.scan import check, describe
from app.devices import Devices
from app.profile import load_profile
from drivers.base import AcquisitionError, ConnectionLost, DeviceTimeout, LimitError, Region, StagePosition
from drivers.basler import BaslerCamera, BaslerSettings, load_pylon
from drivers.clock import VirtualClock
from recon.files import schema
from recon.files.read import open_run
from recon.files.write import RunWriter
from simulators.bench import BenchSettings, build_bench
from simulators.objects import Sample, draw_digit
from simulators.pylon_wire import SERIAL, SMALLEST_SENSOR, PylonWire, WireFault
from tests.drivers.emulated import Canned, Watcher, fed, settings
from tests.simulators.bench_settings import SMALL

SAMPLE = Sample.from_drawing(draw_digit(4, 0), 0.9e-3, 8e-3, pitch_m=6.9e-6)
PLACES = (StagePosition(12.5e-3, 12.5e-3), StagePosition(12.55e-3, 12.4e-3), StagePosition(12.5e-3, 20.0e-3))
BASLER_LIKE = replace(
    SMALL, bit_depth=12, electrons_per_adu=2.6, black_level_adu=32, read_noise_e=2.3, full_well_e=10500, gain_db=0.0
)


def of_bench(bench: BenchSettings, **changes) -> BaslerSettings:
    return BaslerSettings(
        **{
            "shape": bench.shape,
            "pixel_size_m": bench.pixel_size_m,
            "bit_depth": bench.bit_depth,
            "electrons_per_adu": bench.electrons_per_adu,
            "black_level_adu": bench.black_level_adu,
            "serial": SERIAL,
            **changes,
        }
    )


def benches(bench: BenchSettings, **changes):
    """A simulated camera with its stage and light, and an emulated one that sees the same scene; all open."""
    clock = VirtualClock(1000.0)
    simulated, stage, light, _ = build_bench(bench, SAMPLE, clock, 5)
    wire = PylonWire(simulated.source, clock)
    emulated = BaslerCamera(of_bench(bench, **changes), clock, wire)
    for device in (simulated, stage, light, emulated):
        device.open()
    stage.home()
    return simulated, emulated, stage, light


@pytest.mark.parametrize("bench", [SMALL, BASLER_LIKE], ids=["16 bit", "12 bit"])
def test_frames_equal_the_simulated_ones_for_the_same_places_and_seeds(bench):
    simulated, emulated, stage, light = benches(bench)
    number = 0
    for place in PLACES:
        stage.move_to(place)
        for exposure in (3e-6, 3e-3, 0.3):
            assert emulated.set_exposure(exposure) == simulated.set_exposure(exposure)
            for blocked in (False, True):
                (light.block if blocked else light.unblock)()
                number += 1
                simulated.seed_next(3, number)
                expected = simulated.acquire()
                simulated.seed_next(3, number)
                found = emulated.acquire()
                np.testing.assert_array_equal(found.image, expected.image)
                assert found.exposure_s == expected.exposure_s
    assert found.image.max() > bench.black_level_adu
    emulated.close()


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_every_pixel_format_comes_through_bit_for_bit(bits):
    source = Canned((50, 70), bits)
    camera, _ = fed(source)
    camera.open()
    for _ in range(5):
        np.testing.assert_array_equal(camera.acquire().image, source.frames[-1])
    camera.close()


def test_gain_and_black_level_are_the_sensors_although_the_emulator_ignores_them():
    bench = replace(BASLER_LIKE, hot_pixels=0)
    simulated, plain, _, light = benches(bench)
    light.block()
    plain.set_exposure(1e-3)
    dark = plain.acquire().image.astype(float)
    plain.close()
    clock = VirtualClock()
    wire = PylonWire(simulated.source, clock)
    camera = BaslerCamera(of_bench(bench, gain_db=12.0, black_level_adu=100.0), clock, wire)
    camera.open()
    camera.set_exposure(1e-3)
    amplified = camera.acquire().image.astype(float)
    assert dark.mean() == pytest.approx(32, abs=0.05)
    assert amplified.mean() == pytest.approx(100, abs=0.2)
    # Read noise of 2.3 e- and rounding.
    assert dark.std() == pytest.approx(np.hypot(2.3 / 2.6, 12**-0.5), rel=0.03)
    assert amplified.std() == pytest.approx(np.hypot(2.3 * 10**0.6 / 2.6, 12**-0.5), rel=0.03)
    camera.close()


def test_a_simulated_camera_with_gain_counts_the_same_as_an_emulated_one():
    """The emulator quantises its gain to parts in a million: a grey value in some thousands rounds otherwise."""
    bench = replace(BASLER_LIKE, gain_db=12.0)
    simulated, emulated, stage, _ = benches(bench, gain_db=12.0)
    assert simulated.info.electrons_per_adu == pytest.approx(emulated.info.electrons_per_adu, rel=1e-4)
    stage.move_to(PLACES[0])
    images = []
    for camera in (simulated, emulated):
        simulated.seed_next(1, 1)
        camera.set_exposure(0.1)
        images.append(camera.acquire().image.astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    emulated.close()


def test_a_region_is_where_it_is_on_the_emulated_sensor():
    source = Canned((60, 80))
    camera, wire = fed(source)
    camera.open()
    assert camera.info.sensor_shape == SMALLEST_SENSOR
    whole = camera.info.region
    assert whole == wire.frame == Region.centred(SMALLEST_SENSOR, (60, 80))
    camera.set_region(Region(whole.top + 7, whole.left + 9, 20, 30))
    np.testing.assert_array_equal(camera.acquire().image, source.frames[-1][7:27, 9:39])
    camera.set_region(Region(whole.top - 10, whole.left + 70, 40, 30))
    image = camera.acquire().image
    np.testing.assert_array_equal(image[10:, :10], source.frames[-1][:30, 70:])
    assert (image[:10] == 32).all()  # masked pixels read the black level
    assert (image[:, 10:] == 32).all()
    camera.set_region(Region(0, 0, 10, 10))
    assert (camera.acquire().image == 32).all()
    camera.close()


def test_the_frame_may_lie_anywhere_on_a_sensor_of_any_size():
    source = Canned((60, 80))
    clock = VirtualClock()
    wire = PylonWire(source, clock, sensor_shape=(2048, 2448), origin=(100, 201))
    camera = BaslerCamera(settings(shape=(60, 80), origin=(100, 201)), clock, wire)
    camera.open()
    assert camera.info.sensor_shape == (2048, 2448)
    np.testing.assert_array_equal(camera.acquire().image, source.frames[-1])
    camera.close()
    assert PylonWire(source, clock, origin=(1000, 0)).sensor_shape == (1060, 1024)
    for shape, origin in (((1000, 1024), None), ((1040, 1024), (1000, 0))):
        with pytest.raises(LimitError, match="choose a larger one"):
            PylonWire(source, clock, sensor_shape=shape, origin=origin)


def test_an_exposure_takes_its_time_on_the_clock_and_no_longer_than_wanted():
    clock = VirtualClock(50.0)
    for longest, expected in ((np.inf, 3.0), (0.5, 0.5), (0.0, 0.0)):
        wire = PylonWire(Canned(), clock, longest_wait_s=longest)
        camera = BaslerCamera(settings(), clock, wire)
        camera.open()
        camera.set_exposure(3.0)
        before = clock.now()
        exposure = camera.acquire()
        assert clock.now() - before == pytest.approx(expected, abs=1e-6)
        assert exposure.time == pytest.approx(before + 3.0)
        camera.close()


def test_a_wait_ends_when_it_is_cancelled():
    clock = VirtualClock()
    wire = PylonWire(Canned(), clock)
    asked = []
    with wire:
        begin = clock.monotonic()
        wire._wait(10.0, lambda: asked.append(clock.monotonic() - begin) or asked[-1] > 0.1)
        # Virtual time: it passes in the waits alone.
        assert asked[-1] == clock.monotonic() - begin < 0.2


def test_the_files_are_there_as_long_as_the_camera_is_open():
    wire = PylonWire(Canned(), VirtualClock())
    with wire:
        assert os.environ["PYLON_CAMEMU"] == "1"
        folder = Path(wire._folder.name)
        assert folder.is_dir()
    assert not folder.exists()
    wire.disconnect()
    camera, wire = fed()
    camera.open()
    camera.acquire()
    folder = Path(wire._folder.name)
    camera.close()
    assert not folder.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files, which needs /proc")
def test_a_new_camera_each_time_leaves_no_files_open():
    def take() -> int:
        camera, _ = fed()
        camera.open()
        camera.acquire()
        camera.close()
        del camera
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    take()
    before = take()
    assert [take() for _ in range(5)] == [before] * 5


def test_a_wire_is_let_go_of_when_the_camera_cannot_be_opened():
    camera, wire = fed(serial="0815-0009")
    with pytest.raises(ConnectionLost, match="0815-0009 was not found"):
        camera.open()
    assert wire._folder is None


def test_two_emulated_cameras_work_side_by_side():
    sources = Canned((40, 50)), Canned((30, 64), 16)
    cameras = [fed(source)[0] for source in sources]
    for camera in cameras:
        camera.open()
    for _ in range(3):
        for camera, source in zip(cameras, sources, strict=True):
            np.testing.assert_array_equal(camera.acquire().image, source.frames[-1])
    for camera in cameras:
        camera.close()


def test_faults_come_when_they_are_told_to_and_end():
    source = Canned()
    camera, wire = fed(source)
    camera.open()
    wire.inject(WireFault.MISSING_FILE, frames=2, after=1)
    camera.acquire()
    with pytest.raises(AcquisitionError, match="Failed to load image file"):
        camera.acquire()
    np.testing.assert_array_equal(camera.acquire().image, source.frames[-1])
    camera.close()


def test_a_stuck_camera_stays_stuck_until_it_is_freed(monkeypatch):
    monkeypatch.setattr("drivers.basler.MARGIN_S", 0.15)
    source = Canned()
    camera, wire = fed(source)
    camera.open()
    wire.inject(WireFault.STUCK)
    for _ in range(2):
        with pytest.raises(DeviceTimeout, match="no frame within"):
            camera.acquire()
    wire.free()
    np.testing.assert_array_equal(camera.acquire().image, source.frames[-1])
    camera.close()


def test_a_camera_that_is_gone_comes_back_with_the_next_opening():
    source = Canned()
    camera, wire = fed(source)
    camera.open()
    wire.inject(WireFault.GONE, after=1)
    camera.acquire()
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="was unplugged"):
            camera.acquire()
    camera.close()
    camera.open()
    np.testing.assert_array_equal(camera.acquire().image, source.frames[-1])
    camera.close()


# What the emulator does, on which the wire relies: a new pypylon that behaves otherwise is seen here.


@pytest.fixture
def handle():
    """pylon and an emulated camera without wire, ready for software triggers."""
    watcher = Watcher()
    camera = BaslerCamera(settings(), VirtualClock(), watcher)
    camera.open()
    device = watcher.device
    device.TriggerMode.Value = "On"
    device.StartGrabbing(load_pylon()[0].GrabStrategy_OneByOne)
    yield load_pylon()[0], device
    camera.close()


def drain(pylon, device) -> list:
    results = []
    while (result := device.RetrieveResult(150, pylon.TimeoutHandling_Return)).IsValid():
        results.append((result.TimeStamp, result.GrabSucceeded()))
        result.Release()
    return results


def test_emulator_triggers_vanish_without_waiting_for_readiness(handle):
    pylon, device = handle
    for _ in range(6):
        device.ExecuteSoftwareTrigger()
    assert len(drain(pylon, device)) < 6
    for _ in range(6):
        assert device.WaitForFrameTriggerReady(1000, pylon.TimeoutHandling_Return)
        device.ExecuteSoftwareTrigger()
    assert len(drain(pylon, device)) == 6


def test_emulator_has_no_chunks_no_timestamps_and_does_not_wait_for_the_exposure(handle):
    pylon, device = handle
    device.ExposureTime.Value = 5e6
    assert device.WaitForFrameTriggerReady(4000, pylon.TimeoutHandling_Return)
    device.ExecuteSoftwareTrigger()
    # It would come in 5 s at the earliest.
    result = device.RetrieveResult(4000, pylon.TimeoutHandling_ThrowException)
    assert result.TimeStamp == 0
    result.Release()
    genicam = load_pylon()[1]
    assert not genicam.IsReadable(device.GetNodeMap().GetNode("ChunkSelector"))


def test_emulator_exposure_may_change_while_grabbing_but_not_format_or_size(handle):
    _, device = handle
    device.ExposureTime.Value = 20.0
    device.Gain.Value = 3.0
    genicam = load_pylon()[1]
    for name, value in (("Width", 32), ("PixelFormat", "Mono8")):
        with pytest.raises(genicam.AccessException):
            getattr(device, name).Value = value


# The whole way


def small_scan(path: Path, emulated: bool) -> str:
    """A scan of few frames with the profile `tiny`, its camera simulated or emulated."""
    raw = load_profile("tiny").model_dump()
    raw["scan"] |= {"positions": 4, "evaluation_positions": 2, "dark_frames": 3, "empty_frames": 1}
    profile = type(load_profile("tiny")).model_validate(raw)
    sections = (profile.geometry, profile.camera, profile.stage, profile.light, profile.simulation)
    bench_settings = BenchSettings.gather(*(section.model_dump() for section in sections))
    clock = VirtualClock(1.7e9)
    camera, stage, light, bench = build_bench(bench_settings, SAMPLE, clock, 3)
    one = BaslerCamera(of_bench(bench_settings), clock, PylonWire(camera.source, clock)) if emulated else camera
    devices = Devices(
        one, stage, light, clock, "digit:4", 3, bench.true_object_position, seed_frame=camera.source.seed_next
    )
    plan = make_plan(profile)
    with devices:
        require(check(plan, profile, devices, path))
        runner = Runner(
            plan,
            devices,
            profile.stage.approach_m,
            lambda: None,
            lambda: RunWriter.create(path, describe(plan, profile, devices), clock),
        )
        assert runner.run() is RunState.COMPLETED
    with open_run(path) as run:
        return run.node_map


def test_a_scan_through_pylon_is_the_simulated_scan(tmp_path):
    simulated, emulated = tmp_path / "simulated.h5", tmp_path / "emulated.h5"
    assert small_scan(simulated, emulated=False) == ""
    assert '"ExposureTime": ' in small_scan(emulated, emulated=True)
    compared = []

    def compare(name, item):
        other = found[name]
        # The cameras take their frames at other times, the emulated one has no read-out time in virtual time, and its
        # sensor is larger.
        number = isinstance(item, h5py.Dataset) and item.dtype.kind in "uif"
        if number and name.rsplit("/", 1)[-1] not in (schema.TIMESTAMPS, schema.REGION):
            np.testing.assert_array_equal(item[...], other[...], name)
            compared.append(name)

    with h5py.File(simulated) as expected, h5py.File(emulated) as found:
        expected.visititems(compare)
        assert bytes(found[f"entry_2/{schema.DETECTOR}/{schema.NODE_MAP}"][()]).startswith(b"{")
        assert bytes(found[f"entry_1/{schema.DETECTOR}/{schema.CAMERA}"][()]) == b"Emulation"
    assert f"entry_2/{schema.DETECTOR}/{schema.DATA}" in compared
    assert "entry_1/darks/dark_1/mean" in compared
