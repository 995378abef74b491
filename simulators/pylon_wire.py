"""The simulated bench's frames on Basler's own emulator, so that what a camera's driver delivers came through pylon.

The emulator (part of every pypylon) reads one picture file a frame and knows neither exposure nor gain nor black level:
the frame is simulated with those the driver had set, written as a file just before the trigger, and delivered bit for
bit. What was learnt of the emulator, pypylon 26.9:

- It exists while the environment says PYLON_CAMEMU=N whenever devices are looked for, and can be opened more than once.
  The wire says 1 and leaves it so; drivers without a wire leave emulated cameras alone.
- `ImageFilename` is a folder with at least two files; which files is read once, their contents at every frame. Two
  names for one file make the order of names irrelevant.
- Uncompressed TIFF with one strip is read four times faster than PNG; TIFF with many strips is refused.
- Its pixels are the upper bits of the file's 16; Mono8, Mono10, Mono12 and Mono16 come through unchanged.
- The region is cut out of the file; where the file is smaller than the region the frame is smaller too.
- It ticks at 100 Hz: a frame takes 10 ms or more, and free-running it makes 100 a second or what it is told below.
- A trigger while acquisition is stopped vanishes: that is a grab time-out. `ForceFailedBuffer` makes incomplete
  buffers, a missing file a failed grab. `FirePnPCallbackValue` = 1 makes pylon believe that the camera was unplugged,
  but the emulator goes on delivering frames unless it is stopped as well.

POSIX systems only (symbolic links).
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.base import Cancel, LimitError, Region, TriggerSettings
from drivers.clock import Clock

SERIAL = "0815-0000"
"""Serial number of the first emulated camera."""
SMALLEST_SENSOR = (1040, 1024)
"""(rows, columns): the emulator's sensor cannot be smaller."""
LIVE_RATE_HZ = 30.0
SLICE_S = 0.02
_SWITCH = "PYLON_CAMEMU"
_NAMES = ("0.tif", "1.tif")
_MEMORY = "/dev/shm"


class Frames(Protocol):
    """Where frames come from; `simulators.camera.FrameSource` is one."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def bit_depth(self) -> int: ...

    def look(self) -> NDArray[np.float32] | None:
        """The light now."""
        ...

    def expose(
        self, light: NDArray[np.float32] | None, exposure_s: float, gain_db: float, black_level_adu: float, /
    ) -> NDArray[np.uint16]:
        """The next frame."""
        ...


class WireFault(StrEnum):
    """What can go wrong between a trigger and its frame."""

    TIME_OUT = "grab time-out"
    INCOMPLETE = "incomplete buffer"
    MISSING_FILE = "missing file"
    WRONG_SIZE = "wrong size"
    GONE = "camera gone"
    STUCK = "camera stuck"


@dataclass
class _Planned:
    fault: WireFault
    after: int
    frames: float


class PylonWire:
    """The light on an emulated Basler camera. Implements `drivers.base.CameraWire`.

    The driver connects and disconnects it as it opens and closes; it may also be used as a context manager.

    Args:
        source: what makes the frames.
        clock: the exposure passes on it before the trigger.
        longest_wait_s: a longer exposure takes only so long; its light is that of the full exposure.
        sensor_shape: (rows, columns) of the emulated sensor; None takes the smallest that holds the source's frame.
        origin: row and column of that sensor where the source's frame begins; None centres it. Pixels outside of the
            frame are masked: they read the black level.
        name: in messages.
    """

    def __init__(
        self,
        source: Frames,
        clock: Clock,
        longest_wait_s: float = math.inf,
        sensor_shape: tuple[int, int] | None = None,
        origin: tuple[int, int] | None = None,
        name: str = "emulated camera",
    ):
        rows, columns = source.shape
        top, left = origin or (0, 0)
        shape = sensor_shape or (max(SMALLEST_SENSOR[0], top + rows), max(SMALLEST_SENSOR[1], left + columns))
        self.frame = Region.centred(shape, source.shape) if origin is None else Region(top, left, rows, columns)
        if shape[0] < SMALLEST_SENSOR[0] or shape[1] < SMALLEST_SENSOR[1] or not self.frame.inside(shape):
            raise LimitError(
                name,
                f"a sensor of {shape} pixels is smaller than Basler's emulator has ({SMALLEST_SENSOR}) or than the "
                f"frame, {self.frame}; choose a larger one",
            )
        self.sensor_shape = shape
        self._source = source
        self._clock = clock
        self._longest_wait_s = longest_wait_s
        self._shift = 16 - source.bit_depth
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._names = self._file = ""
        self._paced = False
        self._device: Any = None
        self._planned: list[_Planned] = []
        self._canvas = np.zeros((0, 0), np.uint16)

    def connect(self) -> None:
        """Let one emulated camera exist, until `attach` or `disconnect`."""
        if self._folder is None:
            # In memory where there is such a place: a disk would be written to at every frame.
            place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
            self._folder = tempfile.TemporaryDirectory(prefix="ptychoscope-frames-", dir=place)
            names = Path(self._folder.name, "names")
            names.mkdir()
            self._names, self._file = str(names), os.path.join(self._folder.name, "frame.tif")  # noqa: PTH118
            for name in _NAMES:
                (names / name).symlink_to(self._file)
        # For good: each time that pylon finds this changed it loses a dozen pipes.
        os.environ[_SWITCH] = "1"

    def attach(self, device: Any) -> None:
        """Make the emulator read the files, with a sensor of its new size."""
        self._device = device
        device.HeightMax.Value, device.WidthMax.Value = self.sensor_shape
        device.TestImageSelector.Value = "Off"
        device.ImageFilename.Value = self._names
        device.ImageFileMode.Value = "On"
        device.AcquisitionFrameRate.Value = LIVE_RATE_HZ
        self._paced = False

    def before_trigger(self, settings: TriggerSettings) -> None:
        """Expose the scene as set and put the frame where the emulator finds it; a repeated frame is the same again."""
        if settings.live:
            if not self._paced:
                self._device.AcquisitionFrameRateEnable.Value = self._paced = True
            self._render(settings)
            self._write(self._canvas)
            return
        fault = self._next_fault()
        if not settings.repeated:
            self._render(settings)
        if fault is WireFault.MISSING_FILE:
            Path(self._file).unlink(missing_ok=True)
            return
        rows = settings.region.rows - 1 if fault is WireFault.WRONG_SIZE else len(self._canvas)
        self._write(self._canvas[:rows])
        if fault in (WireFault.TIME_OUT, WireFault.STUCK, WireFault.GONE):
            self._device.AcquisitionStop.Execute()
        elif fault is WireFault.INCOMPLETE:
            self._device.ForceFailedBufferCount.Value = 1
            self._device.ForceFailedBuffer.Execute()
        if fault is WireFault.GONE:
            self._device.FirePnPCallbackValue.Value = 1

    def disconnect(self) -> None:
        """Remove the files; does nothing when there are none."""
        self._device = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def inject(self, fault: WireFault, frames: int = 1, after: int = 0) -> None:
        """Let triggers fail: `frames` of them once `after` more have gone well; repeats count.

        A camera that is gone stays gone until it is opened again, a stuck one until `free`.
        """
        self._planned.append(_Planned(fault, after, math.inf if fault is WireFault.STUCK else frames))

    def free(self) -> None:
        """No more faults."""
        self._planned.clear()

    def __enter__(self) -> PylonWire:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def _next_fault(self) -> WireFault | None:
        for planned in self._planned:
            if planned.after > 0:
                planned.after -= 1
            elif planned.frames > 0:
                planned.frames -= 1
                return planned.fault
        return None

    def _render(self, settings: TriggerSettings) -> None:
        """The next frame at its place on the canvas, which is what the emulator cuts the region out of."""
        light = self._source.look()
        if not settings.live:
            self._wait(min(settings.exposure_s, self._longest_wait_s), settings.cancel)
        image = self._source.expose(light, settings.exposure_s, settings.gain_db, settings.black_level_adu)
        region, frame = settings.region, self.frame
        shape = (region.top + region.rows, region.left + region.columns)
        if self._canvas.shape != shape:
            self._canvas = np.zeros(shape, np.dtype("<u2"))
        if region != frame:
            self._canvas[region.top :, region.left :] = round(settings.black_level_adu) << self._shift
        top, left = max(region.top, frame.top), max(region.left, frame.left)
        bottom = min(shape[0], frame.top + frame.rows)
        right = min(shape[1], frame.left + frame.columns)
        if top < bottom and left < right:
            part = image[top - frame.top : bottom - frame.top, left - frame.left : right - frame.left]
            np.left_shift(part, self._shift, out=self._canvas[top:bottom, left:right])

    def _write(self, picture: NDArray[np.uint16]) -> None:
        """Replace the file in one step: free-running, the emulator may be reading it."""
        part = self._file + ".part"
        with open(part, "wb", buffering=0) as file:  # noqa: PTH123
            file.write(_tiff_header(picture.shape[0], picture.shape[1]))
            file.write(picture.data)
        os.replace(part, self._file)  # noqa: PTH105

    def _wait(self, seconds: float, cancel: Cancel) -> None:
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0 and not cancel():
            # At least a nanosecond: a slice that rounding swallows would never end a wait in virtual time.
            self._clock.sleep(max(min(SLICE_S, left), 1e-9))


def _tiff_header(rows: int, columns: int) -> bytes:
    """What precedes rows x columns uint16 pixels in an uncompressed little-endian TIFF of one strip."""
    short, long = 3, 4
    tags = [
        (256, long, columns),  # width
        (257, long, rows),  # length
        (258, short, 16),  # bits per sample
        (259, short, 1),  # not compressed
        (262, short, 1),  # black is zero
        (273, long, 0),  # where the strip begins
        (277, short, 1),  # samples per pixel
        (278, long, rows),  # rows per strip
        (279, long, 2 * rows * columns),  # bytes of the strip
    ]
    begin = 8 + 2 + 12 * len(tags) + 4
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, value in tags:
        # A short fills the first two of four bytes, which little-endian numbers do anyway.
        head += struct.pack("<HHII", tag, kind, 1, begin if tag == 273 else value)
    return head + struct.pack("<I", 0)
