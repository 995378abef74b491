"""The Basler driver on Basler's own emulator; what that cannot do is done by stand-ins around pylon's objects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from drivers import basler
from drivers.base import (
    AcquisitionError,
    Camera,
    Cancelled,
    ConnectionLost,
    DeviceTimeout,
    HasNodeMap,
    InstrumentError,
    LimitError,
    NotReadyError,
    Region,
)
from drivers.basler import BaslerCamera, load_pylon
from drivers.clock import VirtualClock
from simulators.pylon_wire import WireFault
from tests.drivers.emulated import SHAPE, Canned, Stand, Watcher, fed, settings
from tests.drivers.rig import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def feed():
    """An open camera, its wire and its frames."""
    source = Canned()
    camera, wire = fed(source)
    camera.open()
    yield SimpleNamespace(camera=camera, wire=wire, source=source)
    camera.close()


@pytest.fixture
def watched():
    """Open a camera on a wire that only watches; closed at the end."""
    opened = []

    def make(watcher=None, library=load_pylon, **changes):
        watcher = watcher or Watcher()
        camera = BaslerCamera(settings(**changes), VirtualClock(), watcher, library=library)
        opened.append(camera)
        camera.open()
        return camera, watcher

    yield make
    for camera in opened:
        camera.close()


def replace_handle(camera, **replaced):
    """Put a stand-in around the pylon camera of an open driver."""
    camera._device.camera = Stand(camera._device.camera, **replaced)


# Loading and finding


def test_nothing_needs_pypylon_until_a_camera_is_opened():
    script = (
        "import sys; sys.modules['pypylon'] = None\n"
        "from drivers.basler import BaslerCamera, BaslerSettings\n"
        "camera = BaslerCamera(BaslerSettings((64, 96), 3.45e-6, 12, 2.4, 32.0))\n"
        "try:\n    camera.open()\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
        "camera.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NotReadyError camera: Basler's package pypylon cannot be loaded")
    assert "pip install 'pypylon>=26.6'" in done.stdout


def test_the_import_warns_of_nothing_where_warnings_are_errors():
    script = "from drivers.basler import load_pylon; load_pylon(); print('loaded')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "loaded", "")


def test_no_camera_is_a_named_error_and_an_emulated_one_is_none():
    os.environ["PYLON_CAMEMU"] = "1"
    camera = BaslerCamera(settings())
    with pytest.raises(ConnectionLost, match=r"^camera: no Basler camera was found; check cable and power.*udev"):
        camera.open()
    with pytest.raises(NotReadyError, match="is closed"):
        _ = camera.info


def test_one_of_several_cameras_has_to_be_named(watched):
    with pytest.raises(NotReadyError, match="2 cameras were found: Emulation 0815-0000, Emulation 0815-0001; name one"):
        watched(Watcher(cameras=2))
    camera, _ = watched(Watcher(cameras=2), serial="0815-0001")
    assert camera.info.serial == "0815-0001"
    with pytest.raises(ConnectionLost, match="serial number 123 was not found, only Emulation 0815-0000"):
        watched(serial="123")


def test_a_failed_opening_leaves_nothing_behind(watched):
    watcher = Watcher()
    with pytest.raises(LimitError, match=r"gain 50 dB is outside 0 \.\. 48 dB"):
        watched(watcher, gain_db=50.0)
    assert watcher.calls == ["connect", "attach", "disconnect"]
    assert not watcher.device.IsOpen()


# Setting up


def test_it_is_a_camera_that_tells_what_it_is(feed):
    camera = feed.camera
    assert isinstance(camera, Camera)
    assert isinstance(camera, HasNodeMap)
    info = camera.info
    assert (info.model, info.serial, info.simulated) == ("Emulation", "0815-0000", True)
    assert (info.shape, info.bit_depth, info.pixel_size_m) == (SHAPE, 12, 3.45e-6)
    facts = camera.describe()
    assert facts["firmware"] == "1.1"
    assert facts["exposure range"] == "1e-06 .. 10 s"
    assert facts["gain range"] == "0 .. 48 dB"
    assert facts["pixel format"] == "Mono12"
    assert "temperature" not in facts  # the emulator has none: optional settings stay behind a guard


def test_everything_automatic_is_off_whatever_was_left_on(watched):
    def leave_on(device):
        device.ExposureAuto.Value = "Continuous"
        device.GainAuto.Value = "Once"
        device.Gamma.Value = 0.5
        device.DigitalShift.Value = 2
        device.ReverseX.Value = True
        device.BinningVertical.Value = 2
        device.AcquisitionMode.Value = "SingleFrame"
        device.ExposureMode.Value = "TriggerWidth"
        device.AcquisitionFrameRateEnable.Value = True
        device.TriggerDelay.Value = 100.0
        device.TriggerSelector.Value = "FrameBurstStart"
        device.TriggerMode.Value = "On"

    _, watcher = watched(Watcher(on_attach=leave_on))
    device = watcher.device
    found = {
        name: getattr(device, name).Value
        for name in ("ExposureAuto", "GainAuto", "Gamma", "DigitalShift", "ReverseX", "BinningVertical")
    }
    assert found == {
        "ExposureAuto": "Off",
        "GainAuto": "Off",
        "Gamma": 1.0,
        "DigitalShift": 0,
        "ReverseX": False,
        "BinningVertical": 1,
    }
    assert device.AcquisitionMode.Value == "Continuous"
    assert device.ExposureMode.Value == "Timed"
    assert device.TestImageSelector.Value == "Off"
    assert not device.AcquisitionFrameRateEnable.Value
    assert device.TriggerDelay.Value == 0
    device.TriggerSelector.Value = "FrameBurstStart"
    assert device.TriggerMode.Value == "Off"


def test_an_automatic_that_stays_on_is_refused(watched):
    camera, _ = watched()
    stubborn = SimpleNamespace(Value="Continuous")
    nodes = Stand(
        camera._device.camera.GetNodeMap(),
        GetNode=lambda name: stubborn if name == "GainAuto" else camera_nodes.GetNode(name),
    )
    camera_nodes = camera._device.camera.GetNodeMap()
    camera._device._genicam = Stand(
        camera._genicam,
        IsWritable=lambda node: node is not stubborn and load_pylon()[1].IsWritable(node),
        IsReadable=lambda node: node is stubborn or load_pylon()[1].IsReadable(node),
    )
    replace_handle(camera, GetNodeMap=lambda: nodes)
    with pytest.raises(NotReadyError, match="GainAuto stays Continuous and has to be Off"):
        camera._device.neutral()


def test_a_black_level_that_clips_the_noise_and_an_unknown_depth_are_refused():
    with pytest.raises(LimitError, match="black level of 0 adu clips half of the read noise"):
        BaslerCamera(settings(black_level_adu=0.0))
    with pytest.raises(LimitError, match=r"14 bits are none of \[8, 10, 12, 16\]"):
        BaslerCamera(settings(bit_depth=14))


def test_gain_and_black_level_are_read_back_and_scale_the_conversion(watched):
    camera, watcher = watched(gain_db=6.0, black_level_adu=31.97)
    info = camera.info
    # The emulator's gain is quantised: what counts is what it says, not what was asked for.
    assert info.gain_db != 6.0
    assert info.gain_db == watcher.device.Gain.Value == pytest.approx(6.0, abs=1e-3)
    assert info.black_level_adu == watcher.device.BlackLevel.Value
    assert info.electrons_per_adu == pytest.approx(2.4 / 1.9953, rel=1e-4)
    assert watched()[0].info.electrons_per_adu == 2.4


def test_an_exposure_is_quantised_and_the_one_that_took_place_is_told(feed):
    camera = feed.camera
    assert camera.set_exposure(29.7e-6) == 30e-6
    assert camera.acquire().exposure_s == 30e-6
    assert feed.source.exposed[-1][0] == 30e-6


@pytest.mark.parametrize("seconds", [0.9e-6, 10.1, float("nan"), -1.0])
def test_an_exposure_outside_the_cameras_range_never_reaches_it(feed, seconds):
    camera = feed.camera
    camera.set_exposure(2e-3)
    with pytest.raises(LimitError, match=r"camera: exposure .* s is outside 1e-06 .. 10 s; nothing was sent"):
        camera.set_exposure(seconds)
    assert camera._device.camera.ExposureTime.Value == 2000


def test_the_ends_of_the_exposure_range_are_legal(feed):
    for end in (feed.camera.info.exposure_s.low, feed.camera.info.exposure_s.high):
        assert feed.camera.set_exposure(end) == end


# Regions


def test_exposures_have_to_satisfy_the_settings_too(watched):
    camera, _ = watched(min_exposure_s=2e-3, max_exposure_s=5e-2)
    limits = camera.info.exposure_s
    assert (limits.low, limits.high) == (2e-3, 5e-2)
    assert limits.contains(camera.acquire().exposure_s)
    for wrong in (1e-3, 0.1):
        with pytest.raises(LimitError, match=r"camera: exposure .* is outside 0\.002 \.\. 0\.05 s"):
            camera.set_exposure(wrong)
    # What the camera does not take is not promised.
    camera, _ = watched(min_exposure_s=1e-12, max_exposure_s=1e9)
    node = camera._device.camera.ExposureTime
    assert (camera.info.exposure_s.low, camera.info.exposure_s.high) == (node.Min / 1e6, node.Max / 1e6)
    with pytest.raises(LimitError, match=r"camera: takes exposures of .* is allowed 1e\+08 \.\. 1e\+09 s; correct"):
        watched(min_exposure_s=1e8, max_exposure_s=1e9)


def test_regions_are_centred_and_follow_each_other_in_any_order(watched):
    camera, _ = watched(shape=(1024, 1024))
    assert camera.info.region == Region(1536, 1536, 1024, 1024)
    for region in (
        Region(0, 0, 4096, 4096),  # grown: offsets have to be 0 first
        Region(4000, 4032, 96, 64),  # shrunk: sizes have to come before offsets
        Region(10, 4000, 4086, 96),
        Region(7, 9, 64, 64),
    ):
        assert camera.set_region(region) == region
        assert camera.info.region == region
    assert watched(origin=(100, 200))[0].info.region == Region(100, 200, *SHAPE)


def test_an_illegal_region_names_the_nearest_and_changes_nothing(watched):
    camera, _ = watched()
    before = camera.info.region
    with pytest.raises(LimitError, match="nearest that can is 64 x 96 pixels from row 4032, column 0"):
        camera.set_region(Region(4090, -5, 64, 96))
    assert camera.info.region == before
    with pytest.raises(LimitError, match="nearest that can is 4096 x 4096 pixels"):
        watched(shape=(5000, 5000))


def test_a_region_may_change_between_triggers_although_pylon_forbids_it_while_grabbing(feed):
    camera = feed.camera
    whole = camera.info.region
    camera.acquire()
    assert camera._device.camera.IsGrabbing()
    part = Region(whole.top + 3, whole.left + 5, 32, 40)
    camera.set_region(part)
    image = camera.acquire().image
    np.testing.assert_array_equal(image, feed.source.frames[-1][3:35, 5:45])


def test_region_and_exposure_survive_closing(feed):
    camera = feed.camera
    part = camera.set_region(Region(camera.info.region.top, camera.info.region.left, 20, 30))
    camera.set_exposure(7e-3)
    camera.close()
    camera.open()
    assert camera.info.region == part
    assert camera.acquire().exposure_s == 7e-3


# Triggered frames


def test_every_trigger_brings_its_own_frame_exactly(feed):
    clock_before, images = 1000.0, []
    for _ in range(30):
        exposure = feed.camera.acquire()
        images.append(exposure.image)
        assert exposure.image.dtype == np.uint16
        # The emulator stamps every frame with 0: times come from this computer's clock.
        assert exposure.time > clock_before
        clock_before = exposure.time
    # Compared at the end: pylon uses its buffers again, and no image may lie in one.
    np.testing.assert_array_equal(images, feed.source.frames)


def test_a_scan_starts_grabbing_once_and_waits_before_every_trigger(feed):
    camera, calls = feed.camera, []
    handle = camera._device.camera

    def noting(name):
        def call(*arguments):
            calls.append(name)
            return getattr(handle, name)(*arguments)

        return call

    names = ("StartGrabbing", "WaitForFrameTriggerReady", "ExecuteSoftwareTrigger", "RetrieveResult")
    replace_handle(camera, **{name: noting(name) for name in names})
    camera.acquire()
    camera.set_exposure(3e-3)
    camera.acquire()
    assert calls == ["StartGrabbing", *names[1:], *names[1:]]


def test_the_first_frame_after_a_change_while_grabbing_is_of_the_new_exposure(feed):
    camera = feed.camera
    for seconds in (1e-3, 2e-3, 1e-3, 0.5):
        camera.set_exposure(seconds)
        assert camera.acquire().exposure_s == seconds
        assert feed.source.exposed[-1] == (seconds, 0.0, 32.0)
        assert camera._device.camera.IsGrabbing()


class Node:
    """A setting of a camera that the emulator is not."""

    def __init__(self, value, choices=(), available=lambda: True):
        self.Value = value
        self.choices = choices
        self.available = available

    def GetSettableValues(self):
        return self.choices


class ChunkCamera:
    """Settings for chunks as a real camera has them: what can be chosen is there once chunks are switched on."""

    def __init__(self, choices=("Image", "ExposureTime", "Timestamp")):
        active = Node(False)
        self.nodes = {
            "ChunkModeActive": active,
            "ChunkSelector": Node("Image", choices, lambda: active.Value),
            "ChunkEnable": Node(False, (), lambda: active.Value),
        }

    def library(self):
        """pylon with a sense for these settings."""
        pylon, genicam = load_pylon()

        def asked(real):
            return lambda node: node.available() if isinstance(node, Node) else real(node)

        readable, writable = asked(genicam.IsReadable), asked(genicam.IsWritable)
        return pylon, Stand(genicam, IsReadable=readable, IsWritable=writable)

    def lend(self, camera, **replaced):
        """Let an open driver's handle have them."""
        handle = camera._device.camera
        nodes = handle.GetNodeMap()
        stand = Stand(nodes, GetNode=lambda name: self.nodes.get(name) or nodes.GetNode(name))
        replace_handle(camera, GetNodeMap=lambda: stand, **replaced)


@pytest.mark.parametrize("exposed_us", [38.5, None])
def test_the_exposure_of_a_frame_is_taken_from_its_chunk_where_there_is_one(exposed_us):
    has = ChunkCamera()
    chunk = Node(exposed_us, available=lambda: exposed_us is not None)
    camera = BaslerCamera(
        settings(), VirtualClock(), Watcher(on_attach=lambda handle: lend(handle)), library=has.library
    )

    def lend(handle):
        has.lend(camera, RetrieveResult=lambda *arguments: ChunkResult(handle.RetrieveResult(*arguments), chunk))

    camera.open()
    try:
        assert (has.nodes["ChunkSelector"].Value, has.nodes["ChunkEnable"].Value) == ("ExposureTime", True)
        camera.set_exposure(30e-6)
        assert camera.acquire().exposure_s == pytest.approx(38.5e-6 if exposed_us else 30e-6)
        assert camera.describe()["exposure of a frame"] == "sent with it"
    finally:
        camera.close()


def test_a_camera_without_the_chunk_sends_none_at_all(feed):
    assert feed.camera.describe()["exposure of a frame"] == "as accepted"  # the emulator has no chunks
    has = ChunkCamera(choices=("Image", "Timestamp"))
    camera = BaslerCamera(settings(), VirtualClock(), Watcher(), library=has.library)
    camera._wire.on_attach = lambda handle: has.lend(camera)
    camera.open()
    assert camera.describe()["exposure of a frame"] == "as accepted"
    assert not has.nodes["ChunkModeActive"].Value
    assert not has.nodes["ChunkEnable"].Value
    camera.close()


class ChunkResult:
    """A grab result as a camera with chunks would deliver it."""

    def __init__(self, result, chunk):
        self._result = result
        self.ChunkExposureTime = chunk

    def __getattr__(self, name):
        return getattr(self._result, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._result.Release()


def test_a_failed_buffer_is_taken_once_more_and_is_the_same_frame(feed):
    feed.wire.inject(WireFault.INCOMPLETE)
    image = feed.camera.acquire().image
    assert len(feed.source.frames) == 1
    np.testing.assert_array_equal(image, feed.source.frames[0])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (WireFault.INCOMPLETE, "incompletely grabbed"),
        (WireFault.MISSING_FILE, "Failed to load image file"),
        (WireFault.WRONG_SIZE, "63 x 96 pixels instead of 64 x 96"),
    ],
)
def test_two_failed_buffers_are_an_error_and_the_next_frame_is_good(feed, fault, reason):
    feed.wire.inject(fault, frames=2)
    with pytest.raises(AcquisitionError, match=f"camera: two frames in a row did not arrive intact.*{reason}") as error:
        feed.camera.acquire()
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(feed.camera.acquire().image, feed.source.frames[-1])


def test_a_frame_that_never_comes_is_a_time_out_made_from_the_exposure(feed):
    camera = feed.camera
    camera.set_exposure(0.2)
    camera.acquire()
    feed.wire.inject(WireFault.TIME_OUT)
    handle, waits = camera._device.camera, []

    def wait(milliseconds, handling):
        waits.append(milliseconds)
        return handle.RetrieveResult(milliseconds, handling)

    replace_handle(camera, RetrieveResult=wait)
    with pytest.raises(DeviceTimeout, match=r"camera: no frame within 1.2 s of a trigger for 0.2 s; check its cable"):
        camera.acquire()
    assert waits == [100] * 12
    np.testing.assert_array_equal(camera.acquire().image, feed.source.frames[-1])


def test_a_camera_that_never_gets_ready_is_a_time_out(feed, monkeypatch):
    monkeypatch.setattr(basler, "MARGIN_S", 0.1)
    waits = []
    replace_handle(feed.camera, WaitForFrameTriggerReady=lambda milliseconds, handling: waits.append(milliseconds))
    feed.camera.set_exposure(0.15)
    with pytest.raises(DeviceTimeout, match=r"is not ready for a trigger after 0.25 s; unplug it"):
        feed.camera.acquire()
    assert waits == [100, 100, 50]


def test_a_long_exposure_is_cancelled_at_once_and_leaves_no_stale_frame(feed):
    camera = feed.camera
    camera.set_exposure(10.0)
    feed.wire.inject(WireFault.TIME_OUT)
    handle, waits = camera._device.camera, []

    def wait(milliseconds, handling):
        waits.append(milliseconds)
        return handle.RetrieveResult(milliseconds, handling)

    replace_handle(camera, RetrieveResult=wait)
    with pytest.raises(Cancelled, match="an exposure of 10 s was cancelled"):
        camera.acquire(lambda: len(waits) == 2)
    # Asked after every wait of a tenth of a second.
    assert waits == [100, 100]
    # Cancelled after the trigger with the frame on its way: it must not be taken for the next one.
    asked = []
    with pytest.raises(Cancelled):
        camera.acquire(lambda: asked.append(0) or len(asked) > 2)
    camera.set_exposure(1e-3)
    exposure = camera.acquire()
    np.testing.assert_array_equal(exposure.image, feed.source.frames[-1])
    assert exposure.exposure_s == 1e-3


def test_a_cancel_before_the_trigger_sends_none(feed):
    calls = []
    replace_handle(feed.camera, ExecuteSoftwareTrigger=lambda: calls.append("trigger"))
    with pytest.raises(Cancelled):
        feed.camera.acquire(lambda: True)
    assert calls == []


def test_whatever_else_pylon_says_is_one_line_with_the_devices_name(feed):
    genicam = load_pylon()[1]

    def refuse(*arguments):
        raise genicam.RuntimeException("out of\nmemory. : RuntimeException thrown (file 'somewhere.cpp', line 12)")

    replace_handle(feed.camera, ExecuteSoftwareTrigger=refuse)
    with pytest.raises(InstrumentError, match=r"^camera: could not take a frame \(out of memory") as error:
        feed.camera.acquire()
    assert "\n" not in str(error.value)
    assert "somewhere.cpp" not in str(error.value)


# Removal and closing


def test_an_unplugged_camera_is_named_and_found_again_by_its_serial_number(watched):
    camera, watcher = watched()
    camera.set_exposure(5e-3)
    watcher.before_trigger = lambda settings: (
        watcher.device.AcquisitionStop.Execute(),
        setattr(watcher.device.FirePnPCallbackValue, "Value", 1),
    )
    with pytest.raises(ConnectionLost, match="Emulation 0815-0000 was unplugged; plug it in, then open it again"):
        camera.acquire()
    assert camera._device.reported_removed  # pylon's callback came
    del watcher.before_trigger
    for call in (camera.acquire, lambda: camera.set_exposure(1e-3), camera.describe, camera.start_live):
        with pytest.raises(ConnectionLost, match="was unplugged"):
            call()
    camera.close()
    watcher.cameras = 3  # without its number it would now be one of three
    camera.open()
    assert camera.info.serial == "0815-0000"
    assert camera.info.region.shape == SHAPE


def test_a_removal_without_a_callback_is_noticed_too(feed):
    feed.camera.acquire()
    feed.wire.inject(WireFault.TIME_OUT)
    handle, waits = feed.camera._device.camera, []

    def wait(milliseconds, handling):
        waits.append(milliseconds)
        return handle.RetrieveResult(milliseconds, handling)

    replace_handle(feed.camera, RetrieveResult=wait, IsCameraDeviceRemoved=lambda: True)
    with pytest.raises(ConnectionLost, match="was unplugged"):
        feed.camera.acquire()
    # Long before the frame's own time is over.
    assert waits == [100]


def test_a_camera_unplugged_while_closed_is_searched_for_anew(feed):
    camera = feed.camera
    camera.close()
    old = camera._device.camera

    def gone():
        raise load_pylon()[1].RuntimeException("The device is gone.")

    replace_handle(camera, Open=gone)
    camera.open()
    assert camera._device.camera is not old
    np.testing.assert_array_equal(camera.acquire().image, feed.source.frames[-1])


def test_user_code_runs_in_the_callers_thread_only(watched):
    camera, watcher = watched(Watcher())
    for _ in range(3):
        camera.acquire()
    camera.start_live()
    camera.newest(1.0)
    camera.stop_live()
    assert watcher.threads == {threading.get_ident()}


def test_closing_twice_is_closing_once_and_closed_refuses(feed):
    camera = feed.camera
    camera.close()
    camera.close()
    for call in (
        camera.acquire,
        camera.describe,
        camera.node_map,
        camera.start_live,
        lambda: camera.newest(0.0),
        lambda: camera.set_exposure(1e-3),
        lambda: camera.set_region(Region(0, 0, 10, 10)),
    ):
        with pytest.raises(NotReadyError, match="camera: is closed; open it first"):
            call()
    camera.stop_live()
    camera.open()
    camera.open()
    assert camera.acquire().image.shape == SHAPE


def test_a_camera_that_is_garbage_is_collected_without_a_crash():
    """A handler that Python owned was freed before its camera, and freeing the camera then ended the process."""
    script = (
        "import gc\nfrom tests.drivers.emulated import fed\n"
        "for _ in range(10):\n"
        "    camera, wire = fed(); wire.camera = camera; camera.open(); camera.acquire(); camera.close()\n"
        "    del camera, wire; gc.collect()\n"
        "print('collected')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "collected")


def _resources() -> tuple[int, int, int]:
    """Threads, open files and kilobytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages * 4  # noqa: PTH208


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts threads and open files, which needs /proc")
def test_a_thousand_open_close_cycles_leak_nothing():
    camera, _ = fed()
    before = (0, 0, 0)
    for cycle in range(1000):
        camera.open()
        if cycle % 50 == 0:
            camera.acquire()
        camera.close()
        if cycle == 100:
            before = _resources()
    threads, files, memory = (now - then for now, then in zip(_resources(), before, strict=True))
    assert threads <= 0
    assert files <= 0
    assert (
        memory < 8000
    )  # kilobytes: a frame left behind in every cycle would be 11,000, the allocator's whims are less


# Live view


def test_live_view_shows_the_newest_frame_and_skips_the_others(feed):
    camera = feed.camera
    camera.start_live()
    camera.start_live()
    assert camera.newest(10.0) is not None
    handle = camera._device.camera
    count = handle.StreamGrabber.Statistic_Total_Buffer_Count
    skipped, waits = [], []

    def retrieve(milliseconds, handling):
        waits.append(milliseconds)
        result = handle.RetrieveResult(milliseconds, handling)
        if result.IsValid():
            skipped.append(result.GetNumberOfSkippedImages())
        return result

    replace_handle(camera, RetrieveResult=retrieve)
    begin = count.Value
    wait_until(lambda: count.Value > begin + 5)
    newest = camera.newest(10.0).image
    assert skipped[0] >= 3
    # What was exposed last before the question, or while it was asked.
    assert any((newest == frame).all() for frame in feed.source.frames[-2:])
    # No frame is waited for that does not come.
    handle.AcquisitionStop.Execute()
    waits.clear()
    wait_until(lambda: camera.newest(0.0) is None)
    assert set(waits) == {0}
    camera.stop_live()
    camera.stop_live()
    np.testing.assert_array_equal(camera.acquire().image, feed.source.frames[-1])


def test_live_and_triggered_frames_do_not_mix(feed):
    camera = feed.camera
    with pytest.raises(NotReadyError, match="shows no live frames; start them first"):
        camera.newest(0.1)
    camera.start_live()
    for call in (camera.acquire, lambda: camera.set_region(camera.info.region)):
        with pytest.raises(NotReadyError, match="shows live frames; stop them first"):
            call()
    assert camera.set_exposure(4e-3) == 4e-3
    assert camera.newest(1.0).exposure_s == 4e-3
    camera.close()
    camera.open()
    camera.acquire()


def test_live_frames_that_do_not_arrive_intact_are_an_error(feed):
    camera = feed.camera
    camera.start_live()
    camera._device.camera.ForceFailedBufferCount.Value = 100
    camera._device.camera.ForceFailedBuffer.Execute()

    def look():
        for _ in range(10):  # a few good frames may have come before
            camera.newest(10.0)

    with pytest.raises(AcquisitionError, match="live frames do not arrive intact"):
        look()


# What the run keeps


def test_the_node_map_lists_every_setting_that_can_be_read(feed):
    feed.camera.set_exposure(5e-3)
    nodes = json.loads(feed.camera.node_map())
    assert nodes["ExposureTime"] == "5000.0"
    assert nodes["PixelFormat"] == "Mono12"
    assert nodes["GainAuto"] == "Off"
    assert nodes["BlackLevel"] == "32.000"
    assert len(nodes) > 60
    assert list(nodes) == sorted(nodes)
