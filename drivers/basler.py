"""Basler cameras through pypylon, one software trigger a frame. Implements `drivers.base.Camera`.

pypylon is loaded when a camera is opened. Nothing but a flag is touched in pylon's own threads.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivers.base import (
    AcquisitionError,
    CameraInfo,
    CameraWire,
    Cancel,
    Cancelled,
    ConnectionLost,
    DeviceTimeout,
    Exposure,
    Facts,
    InstrumentError,
    Interval,
    LimitError,
    NotReadyError,
    Region,
    TriggerSettings,
    never,
)
from drivers.clock import Clock, SystemClock
from drivers.pylon_device import PylonDevice, one_line

POLL_S = 0.1
"""Longest wait inside pylon: how soon a cancel or a removal is seen."""
MARGIN_S = 1.0
"""A frame that has not come this long after its exposure will not come."""
PIXEL_FORMATS = {8: "Mono8", 10: "Mono10", 12: "Mono12", 16: "Mono16"}
_US = 1e6


@dataclass(frozen=True)
class BaslerSettings:
    """How a camera is set when it is opened.

    Attributes:
        shape: (rows, columns) of a frame.
        pixel_size_m: pitch; not every camera tells.
        bit_depth: of the digital numbers, a key of `PIXEL_FORMATS`.
        electrons_per_adu: conversion gain at 0 dB.
        black_level_adu: offset of a dark frame, above 0.
        serial: which camera; "" takes the only one found.
        origin: row and column of the sensor where the frame begins; None centres it.
        gain_db: analogue gain.
        min_exposure_s, max_exposure_s: exposures are accepted inside these and the camera's own limits.
    """

    shape: tuple[int, int]
    pixel_size_m: float
    bit_depth: int
    electrons_per_adu: float
    black_level_adu: float
    serial: str = ""
    origin: tuple[int, int] | None = None
    gain_db: float = 0.0
    min_exposure_s: float = 0.0
    max_exposure_s: float = math.inf


def load_pylon() -> tuple[Any, Any]:
    """The modules pypylon.pylon and pypylon.genicam. Raises `NotReadyError` naming the package."""
    with warnings.catch_warnings():
        # SWIG's own types, under every Python from 3.11 on; nothing that a user of the camera could change.
        warnings.filterwarnings("ignore", r"builtin type \w+ has no __module__ attribute", DeprecationWarning)
        try:
            from pypylon import genicam, pylon
        except ImportError as error:
            raise NotReadyError(
                "camera",
                f"Basler's package pypylon cannot be loaded ({error}); install it: pip install 'pypylon>=26.6'",
            ) from None
    return pylon, genicam


class BaslerCamera:
    """One Basler camera, used from one thread at a time.

    Region and exposure survive closing; a camera that was unplugged is found again by the serial number it had.

    Args:
        settings: how it is set.
        clock: stamps the frames.
        wire: brings frames to Basler's emulator; None for a real camera. Without it emulated cameras are not seen.
        name: in messages.
        library: loads pylon and genicam.
    """

    def __init__(
        self,
        settings: BaslerSettings,
        clock: Clock | None = None,
        wire: CameraWire | None = None,
        name: str = "camera",
        library: Callable[[], tuple[Any, Any]] = load_pylon,
    ):
        if settings.bit_depth not in PIXEL_FORMATS:
            raise LimitError(name, f"{settings.bit_depth} bits are none of {list(PIXEL_FORMATS)}; correct bit_depth")
        if not settings.black_level_adu > 0:
            raise LimitError(name, "a black level of 0 adu clips half of the read noise; choose one well above 0")
        self._settings = settings
        self._clock = clock or SystemClock()
        self._wire = wire
        self._name = name
        self._library = library
        self._pylon: Any = None
        self._genicam: Any = None
        self._device: PylonDevice | None = None
        self._info: CameraInfo | None = None
        self._region: Region | None = None
        self._exposure_s: float | None = None
        self._chunks = False
        self._live = False

    def open(self) -> None:
        """Connect and set everything. Raises `NotReadyError`, `ConnectionLost`, `LimitError`."""
        if self._info is not None:
            return
        if self._device is None:
            self._pylon, self._genicam = self._library()
            self._device = PylonDevice(
                self._pylon, self._genicam, self._settings.serial, self._wire is not None, self._name
            )
        if self._wire is not None:
            self._wire.connect()
        try:
            self._device.open()
            with self._named("could not be set up"):
                self._set_up(self._device)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Stop grabbing and let go of the camera; does nothing when it is closed."""
        if self._info is not None:
            self._release()

    @property
    def info(self) -> CameraInfo:
        if self._info is None:
            raise NotReadyError(self._name, "is closed; open it first")
        return self._info

    def set_exposure(self, seconds: float) -> float:
        """Set the exposure, also between two triggers, and return the one that the camera took.

        Raises: `LimitError`, `NotReadyError`, `ConnectionLost`.
        """
        self.info.exposure_s.require(seconds, self._name, "exposure")
        with self._named(f"refused an exposure of {seconds:.6g} s"):
            node = self._present.camera.ExposureTime
            # Rounding in the conversion must not put a legal end of the range outside of it.
            node.Value = min(max(seconds * _US, node.Min), node.Max)
            accepted = node.Value / _US
        self._exposure_s = accepted
        return accepted

    def set_region(self, region: Region) -> Region:
        """Read out this part from now on. Raises `LimitError` (naming the nearest), `NotReadyError`."""
        info = self.info
        self._require_idle()
        with self._named(f"refused {region}"):
            self._present.grid().require(region, self._name)
            self._disarm()
            self._region = self._present.put_region(region)
            self._info = self._describe_as(info.black_level_adu, info.gain_db)
        return self._region

    def acquire(self, cancel: Cancel = never) -> Exposure:
        """Trigger one frame; a buffer that fails is taken once more. Raises as `Camera.acquire`."""
        _ = self.info
        self._require_idle()
        failure = ""
        for attempt in range(2):
            try:
                taken = self._take(cancel, repeated=attempt > 0)
            except BaseException:
                # Whatever this trigger still brings must not be taken for the next frame.
                self._disarm(abort=True)
                raise
            if isinstance(taken, Exposure):
                return taken
            failure = taken
        self._disarm()
        raise AcquisitionError(
            self._name, f"two frames in a row did not arrive intact ({failure}); check cable, port and usbfs memory"
        )

    def start_live(self) -> None:
        """Expose without pause and keep the newest frame only. Raises `NotReadyError`, `ConnectionLost`."""
        _ = self.info
        if self._live:
            return
        self._disarm()
        with self._named("could not start live view"):
            self._bring(live=True)
            self._present.camera.TriggerMode.Value = "Off"
            self._present.camera.StartGrabbing(self._pylon.GrabStrategy_LatestImageOnly)
        self._live = True

    def newest(self, timeout_s: float) -> Exposure | None:
        """The newest live frame that has come or comes within the time, else None. Raises as `Camera.newest`."""
        _ = self.info
        if not self._live:
            raise NotReadyError(self._name, "shows no live frames; start them first")
        failure = ""
        self._require_not_reported_removed()
        with self._named("live view failed"):
            self._bring(live=True)
            for _attempt in range(2):
                result = self._retrieve(timeout_s, never)
                if result is None:
                    return None
                taken = self._unpack(result, None)
                if isinstance(taken, Exposure):
                    return taken
                failure = taken
        raise AcquisitionError(self._name, f"live frames do not arrive intact ({failure}); check cable and port")

    def stop_live(self) -> None:
        """End live view; does nothing when there is none."""
        if self._live:
            self._live = False
            self._disarm()

    def describe(self) -> Facts:
        """Identity, firmware, temperature, frame rate and ranges. Raises `NotReadyError`, `ConnectionLost`."""
        info = self.info
        with self._named("does not describe itself"):
            own = self._present.facts()
        rows, columns = info.sensor_shape
        region = info.region
        return {
            "model": info.model,
            "serial": info.serial,
            **own,
            "sensor": f"{rows} x {columns} pixels",
            "region": f"{region.rows} x {region.columns} pixels from row {region.top}, column {region.left}",
            "exposure range": f"{info.exposure_s.low:.6g} .. {info.exposure_s.high:.6g} s",
            "exposure of a frame": "sent with it" if self._chunks else "as accepted",
            "gain": f"{info.gain_db:.6g} dB",
            "black level": f"{info.black_level_adu:.6g} adu",
        }

    def node_map(self) -> str:
        """Every feature that can be read, as one JSON object. Raises `NotReadyError`, `ConnectionLost`."""
        _ = self.info
        with self._named("does not list its settings"):
            return self._present.node_map()

    # Connecting

    def _set_up(self, device: PylonDevice) -> None:
        s = self._settings
        device.defaults()
        if self._wire is not None:
            self._wire.attach(device.camera)
        device.neutral()
        device.camera.PixelFormat.Value = PIXEL_FORMATS[s.bit_depth]
        self._chunks = device.exposure_chunks()
        first = device.grid().centred(s.shape) if s.origin is None else Region(*s.origin, *s.shape)
        self._region = device.put_region(self._region or first)
        gain = device.put_number("Gain", s.gain_db, "gain", "dB")
        black = device.put_number("BlackLevel", s.black_level_adu, "black level", "adu")
        self._info = self._describe_as(black, gain)
        limits = self._info.exposure_s
        exposure = device.read("ExposureTime") / _US if self._exposure_s is None else self._exposure_s
        self.set_exposure(min(max(exposure, limits.low), limits.high))

    def _describe_as(self, black_level_adu: float, gain_db: float) -> CameraInfo:
        assert self._region is not None
        device, s = self._present, self._settings
        return CameraInfo(
            model=device.model,
            serial=device.serial,
            sensor_shape=device.grid().sensor_shape,
            region=self._region,
            pixel_size_m=s.pixel_size_m,
            bit_depth=s.bit_depth,
            electrons_per_adu=s.electrons_per_adu / 10 ** (gain_db / 20),
            black_level_adu=black_level_adu,
            gain_db=gain_db,
            exposure_s=self._exposures(),
            simulated=self._wire is not None,
        )

    def _exposures(self) -> Interval:
        """What both the camera and its settings allow. Raises `LimitError` when that is nothing."""
        s, node = self._settings, self._present.camera.ExposureTime
        low, high = node.Min / _US, node.Max / _US
        if max(low, s.min_exposure_s) > min(high, s.max_exposure_s):
            raise LimitError(
                self._name,
                f"takes exposures of {low:.6g} .. {high:.6g} s and is allowed {s.min_exposure_s:.6g} .. "
                f"{s.max_exposure_s:.6g} s; correct camera.min_exposure_s and max_exposure_s in the profile",
            )
        return Interval(max(low, s.min_exposure_s), min(high, s.max_exposure_s), "s")

    def _release(self) -> None:
        self._info = None
        self._live = False
        if self._device is not None:
            self._disarm()
            self._device.close()
        if self._wire is not None:
            self._wire.disconnect()

    @property
    def _present(self) -> PylonDevice:
        assert self._device is not None, "asked for before the camera was opened"
        return self._device

    # Frames

    def _take(self, cancel: Cancel, *, repeated: bool) -> Exposure | str:
        """One triggered frame, or why its buffer failed."""
        camera, exposure_s = self._present.camera, self._exposure_s
        assert exposure_s is not None
        self._require_not_reported_removed()
        with self._named("could not take a frame"):
            if not camera.IsGrabbing():
                camera.TriggerMode.Value = "On"
                camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)
            # Without this wait a trigger that comes too early vanishes without a word.
            self._wait_ready(MARGIN_S + exposure_s, cancel)
            begin = self._clock.now()
            self._bring(repeated=repeated, cancel=cancel)
            self._stop_if(cancel)
            camera.ExecuteSoftwareTrigger()
            result = self._retrieve(MARGIN_S + exposure_s, cancel)
            if result is None:
                raise DeviceTimeout(
                    self._name,
                    f"no frame within {MARGIN_S + exposure_s:.3g} s of a trigger for {exposure_s:.6g} s; "
                    "check its cable and port, then try again",
                )
            return self._unpack(result, begin + exposure_s)

    def _wait_ready(self, limit_s: float, cancel: Cancel) -> None:
        for slice_ms in _slices(limit_s):
            self._stop_if(cancel)
            if self._present.camera.WaitForFrameTriggerReady(slice_ms, self._pylon.TimeoutHandling_Return):
                return
            self._require_present()
        raise DeviceTimeout(
            self._name, f"is not ready for a trigger after {limit_s:.3g} s; unplug it, plug it in and try again"
        )

    def _retrieve(self, limit_s: float, cancel: Cancel) -> Any:
        """The next grab result, or None when none comes; the time is counted in pylon's own waits."""
        for slice_ms in _slices(limit_s):
            result = self._present.camera.RetrieveResult(slice_ms, self._pylon.TimeoutHandling_Return)
            if result.IsValid():
                return result
            self._require_present()
            self._stop_if(cancel)
        return None

    def _unpack(self, result: Any, time: float | None) -> Exposure | str:
        with result:
            if not result.GrabSucceeded():
                return one_line(result.ErrorDescription) or f"error {result.ErrorCode}"
            image = np.ascontiguousarray(result.Array, np.uint16)
            exposure_s = self._chunk_exposure(result)
        region = self.info.region
        if image.shape != region.shape:
            return f"{image.shape[0]} x {image.shape[1]} pixels instead of {region.rows} x {region.columns}"
        return Exposure(image, exposure_s, self._clock.now() if time is None else time)

    def _chunk_exposure(self, result: Any) -> float:
        """Seconds that this frame was exposed: what came with it, else what the camera had accepted."""
        assert self._exposure_s is not None
        if self._chunks and self._genicam.IsReadable(result.ChunkExposureTime):
            return float(result.ChunkExposureTime.Value) / _US
        return self._exposure_s

    def _bring(self, *, live: bool = False, repeated: bool = False, cancel: Cancel = never) -> None:
        if self._wire is None:
            return
        info, exposure_s = self.info, self._exposure_s
        assert exposure_s is not None
        self._wire.before_trigger(
            TriggerSettings(exposure_s, info.gain_db, info.black_level_adu, info.region, live, repeated, cancel)
        )

    def _disarm(self, *, abort: bool = False) -> None:
        """Stop grabbing; frames still on their way are lost. Never raises: it is called on the way out."""
        camera = self._present.camera
        if camera is None:
            return
        with contextlib.suppress(self._genicam.GenericException):
            if abort:
                # A long exposure would otherwise go on and hold up the next trigger.
                self._present.run("AcquisitionAbort")
            if camera.IsGrabbing():
                camera.StopGrabbing()

    # Errors

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """pylon's exceptions as this program's, with the device's name."""
        try:
            yield
        except self._genicam.GenericException as error:
            self._require_present()
            if isinstance(error, self._genicam.TimeoutException):
                raise DeviceTimeout(self._name, f"{what}: no answer ({one_line(error)}); check its cable") from None
            raise InstrumentError(
                self._name, f"{what} ({one_line(error)}); close other programs that use it, or replug it"
            ) from None

    def _require_present(self) -> None:
        """Raise `ConnectionLost` if the camera is gone; asks it, which takes a millisecond."""
        if self._present.removed:
            raise self._lost()

    def _require_not_reported_removed(self) -> None:
        """Raise `ConnectionLost` if pylon has said that the camera is gone."""
        if self._present.reported_removed:
            raise self._lost()

    def _lost(self) -> ConnectionLost:
        device = self._present
        return ConnectionLost(
            self._name, f"{device.model} {device.serial} was unplugged; plug it in, then open it again"
        )

    def _require_idle(self) -> None:
        if self._live:
            raise NotReadyError(self._name, "shows live frames; stop them first")

    def _stop_if(self, cancel: Cancel) -> None:
        if cancel():
            raise Cancelled(self._name, f"an exposure of {self._exposure_s:.6g} s was cancelled; expose again")


def _slices(limit_s: float) -> Iterator[int]:
    """Milliseconds of the waits that make up a time limit; one, of zero, when there is none."""
    left = max(0, math.ceil(limit_s * 1e3))
    if left == 0:
        yield 0
    while left > 0:
        step = min(left, round(POLL_S * 1e3))
        left -= step
        yield step
