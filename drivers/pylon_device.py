"""A camera handle of pylon: finding, connecting, and its settings (GenICam nodes), without taking any frame.

pylon's modules are passed in: only `drivers.basler` imports them. Names of settings are those of SFNC 2; those that
only some cameras have are asked for before they are used. Exceptions are pylon's own.
"""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

from drivers.base import ConnectionLost, Interval, NotReadyError, Region
from drivers.regions import RegionGrid

EMULATOR = "BaslerCamEmu"
"""pylon's class of emulated cameras."""

# What must be as written, where a camera has it; then what is only tidied up, since it may be locked by other settings.
_REQUIRED: tuple[tuple[str, str | bool], ...] = (
    ("ExposureAuto", "Off"),
    ("GainAuto", "Off"),
    ("ExposureMode", "Timed"),
    ("AcquisitionMode", "Continuous"),
    ("TestImageSelector", "Off"),
    ("TestPattern", "Off"),
)
_TIDY: tuple[tuple[str, str | bool | int | float], ...] = (
    ("GammaEnable", False),
    ("Gamma", 1.0),
    ("LUTEnable", False),
    ("DigitalShift", 0),
    ("BslContrast", 0.0),
    ("BslBrightness", 0.0),
    ("BslDefectPixelCorrectionMode", "Off"),
    ("BslExposureTimeMode", "Standard"),
    ("BinningHorizontal", 1),
    ("BinningVertical", 1),
    ("DecimationHorizontal", 1),
    ("DecimationVertical", 1),
    ("ReverseX", False),
    ("ReverseY", False),
    ("CenterX", False),
    ("CenterY", False),
    ("AcquisitionFrameRateEnable", False),
    ("GainSelector", "All"),
    ("BlackLevelSelector", "All"),
)
_TOLD = {
    "vendor": "DeviceVendorName",
    "firmware": "DeviceFirmwareVersion",
    "device version": "DeviceVersion",
    "pixel format": "PixelFormat",
    "link speed": "BslUSBSpeedMode",
    "link limit": "DeviceLinkThroughputLimit",
}


class PylonDevice:
    """One camera's handle.

    Closing keeps it, so that opening again neither searches all interfaces (a quarter of a second) nor leaks what pylon
    loses per handle; a camera that was removed is searched for anew, by the serial number it had.

    Args:
        pylon, genicam: the modules.
        serial: which camera; "" takes the only one.
        emulated: look among Basler's emulated cameras, and only there.
        name: in messages.

    Attributes:
        camera: pylon's InstantCamera once connected, else None.
        serial, model: identity once connected.
    """

    def __init__(self, pylon: Any, genicam: Any, serial: str, emulated: bool, name: str):
        self.camera: Any = None
        self.serial = serial
        self.model = ""
        self._pylon = pylon
        self._genicam = genicam
        self._emulated = emulated
        self._name = name
        self._gone = threading.Event()

    def open(self) -> None:
        """Connect. Raises `NotReadyError` (several found), `ConnectionLost` (none, or it cannot be opened)."""
        if self.camera is not None and not self.reported_removed:
            # One that was unplugged without a word fails here, and is searched for like the others.
            with contextlib.suppress(self._genicam.GenericException):
                self.camera.Open()
                return
        self._forget()
        chosen = self._find()
        factory = self._pylon.TlFactory.GetInstance()
        self._gone.clear()
        try:
            self.camera = self._pylon.InstantCamera(factory.CreateDevice(chosen))
            # pylon owns the handler: one that Python owned could be collected before the camera, which then crashes.
            self.camera.RegisterConfiguration(
                _removal_watch(self._pylon, self._gone), self._pylon.RegistrationMode_Append, self._pylon.Cleanup_Delete
            )
            self.camera.Open()
        except self._genicam.GenericException as error:
            self._forget()
            raise ConnectionLost(
                self._name,
                f"{_label(chosen)} cannot be opened ({one_line(error)}); close other programs that use it or replug it",
            ) from None
        self.serial, self.model = chosen.GetSerialNumber(), chosen.GetModelName()

    def close(self) -> None:
        """Close, whatever state it is in."""
        if self.camera is not None:
            with contextlib.suppress(self._genicam.GenericException):
                self.camera.Close()
            if self.reported_removed:
                self._forget()

    @property
    def reported_removed(self) -> bool:
        """Whether pylon's callback has said that the camera was unplugged; it does not always come."""
        return self._gone.is_set()

    @property
    def removed(self) -> bool:
        """Whether the camera was unplugged, by the callback or by asking its handle."""
        return self._gone.is_set() or (self.camera is not None and self.camera.IsCameraDeviceRemoved())

    def _find(self) -> Any:
        factory = self._pylon.TlFactory.GetInstance()
        if self._emulated:
            wanted = self._pylon.DeviceInfo()
            wanted.SetDeviceClass(EMULATOR)
            found = list(factory.EnumerateDevices([wanted]))
        else:
            found = [one for one in factory.EnumerateDevices() if one.GetDeviceClass() != EMULATOR]
        names = ", ".join(_label(one) for one in found)
        if not found:
            raise ConnectionLost(
                self._name,
                "no Basler camera was found; check cable and power, on Linux Basler's udev rules, and that no other "
                "program has it open",
            )
        if self.serial:
            for one in found:
                if one.GetSerialNumber() == self.serial:
                    return one
            raise ConnectionLost(
                self._name, f"serial number {self.serial} was not found, only {names}; check camera.serial and cable"
            )
        if len(found) > 1:
            raise NotReadyError(
                self._name, f"{len(found)} cameras were found: {names}; name one of them as camera.serial"
            )
        return found[0]

    def _forget(self) -> None:
        camera, self.camera = self.camera, None
        if camera is not None:
            with contextlib.suppress(self._genicam.GenericException):
                camera.DestroyDevice()

    # Settings

    def read(self, name: str) -> Any:
        """The value of a setting, or None where the camera has none."""
        node = self._node(name)
        return node.Value if self._genicam.IsReadable(node) else None

    def limits(self, name: str) -> tuple[float, float] | None:
        """Least and most of a number, or None where the camera has none."""
        node = self._node(name)
        return (node.Min, node.Max) if self._genicam.IsReadable(node) else None

    def put(self, name: str, value: str | bool | int | float) -> bool:
        """Set it where the camera has it, lets it be set and knows the value; says whether it was."""
        node = self._node(name)
        if not self._genicam.IsWritable(node):
            return False
        if isinstance(value, str) and value not in node.GetSettableValues():
            return False
        node.Value = value
        return True

    def run(self, name: str) -> None:
        """Execute a command where the camera has it."""
        node = self._node(name)
        if self._genicam.IsWritable(node):
            node.Execute()

    def put_number(self, name: str, value: float, quantity: str, unit: str) -> float:
        """Set a number inside the camera's limits and return what it made of it. Raises `LimitError`."""
        limits = self.limits(name)
        if limits is None:
            raise NotReadyError(self._name, f"cannot set its {quantity}: it has no {name}; use another camera")
        Interval(*limits, unit).require(value, self._name, quantity)
        self._node(name).Value = float(value)
        return float(self.read(name))

    def defaults(self) -> None:
        """What the factory set, whatever another program left behind."""
        if self.put("UserSetSelector", "Default"):
            self.run("UserSetLoad")

    def neutral(self) -> None:
        """Nothing automatic, nothing that changes pixels, no trigger; one for each frame is ready to be switched on."""
        for name, value in _REQUIRED:
            self.put(name, value)
            if self.read(name) not in (None, value):
                raise NotReadyError(self._name, f"{name} stays {self.read(name)} and has to be {value}; replug it")
        for name, tidy in _TIDY:
            self.put(name, tidy)
        for kind in self.camera.TriggerSelector.GetSettableValues():
            self.put("TriggerSelector", kind)
            self.put("TriggerMode", "Off")
            self.put("TriggerDelay", 0.0)
        self.camera.TriggerSelector.Value = "FrameStart"
        self.camera.TriggerSource.Value = "Software"

    def exposure_chunks(self) -> bool:
        """Let every frame bring the exposure that it had; says whether this camera can.

        A camera that cannot sends no chunks at all.
        """
        # First: which chunks there are to be selected may depend on it.
        if not self.put("ChunkModeActive", True):
            return False
        can = False
        try:
            can = self.put("ChunkSelector", "ExposureTime") and self.put("ChunkEnable", True)
        finally:
            if not can:
                self.put("ChunkModeActive", False)
        return can

    def grid(self) -> RegionGrid:
        """Which regions it can read out."""
        c = self.camera
        return RegionGrid(
            sensor_shape=(c.HeightMax.Value, c.WidthMax.Value),
            smallest=(c.Height.Min, c.Width.Min),
            size_step=(c.Height.Inc, c.Width.Inc),
            offset_step=(c.OffsetY.Inc, c.OffsetX.Inc),
        )

    def put_region(self, region: Region) -> Region:
        """Set a legal region and return it as read back. Raises `LimitError` naming the nearest legal one."""
        self.grid().require(region, self._name)
        c = self.camera
        # Legal at every step: a size may only grow into what the offset leaves free.
        c.OffsetY.Value = 0
        c.OffsetX.Value = 0
        c.Height.Value = region.rows
        c.Width.Value = region.columns
        c.OffsetY.Value = region.top
        c.OffsetX.Value = region.left
        return Region(c.OffsetY.Value, c.OffsetX.Value, c.Height.Value, c.Width.Value)

    def facts(self) -> dict[str, str]:
        """What only some cameras tell."""
        facts = {name: str(value) for name, node in _TOLD.items() if (value := self.read(node)) is not None}
        if (celsius := self._first("DeviceTemperature", "TemperatureAbs")) is not None:
            facts["temperature"] = f"{celsius:.1f} C"
        if (rate := self._first("ResultingFrameRate", "ResultingFrameRateAbs")) is not None:
            facts["frame rate"] = f"{rate:.4g} 1/s"
        for quantity, name, unit in (("gain", "Gain", "dB"), ("black level", "BlackLevel", "adu")):
            if (limits := self.limits(name)) is not None:
                facts[f"{quantity} range"] = f"{limits[0]:.6g} .. {limits[1]:.6g} {unit}"
        grid = self.grid()
        facts["region steps"] = f"sizes {grid.size_step} from {grid.smallest}, offsets {grid.offset_step}"
        return facts

    def node_map(self) -> str:
        """Every feature that can be read, as one JSON object."""
        values: dict[str, str] = {}
        for node in self.camera.GetNodeMap().GetNodes():
            if not hasattr(node, "ToString") or not self._genicam.IsReadable(node):
                continue
            described = node.GetNode()
            if described.IsFeature():
                # One setting that cannot be read just now must not cost the list.
                with contextlib.suppress(self._genicam.GenericException):
                    values[described.GetName()] = str(node.ToString())
        return json.dumps(dict(sorted(values.items())))

    def _node(self, name: str) -> Any:
        return self.camera.GetNodeMap().GetNode(name)

    def _first(self, *names: str) -> Any:
        return next((value for name in names if (value := self.read(name)) is not None), None)


def _removal_watch(pylon: Any, gone: threading.Event) -> Any:
    """A handler that only raises a flag: it is called in one of pylon's threads."""

    class RemovalWatch(pylon.ConfigurationEventHandler):
        def OnCameraDeviceRemoved(self, camera: Any) -> None:  # noqa: N802
            gone.set()

    return RemovalWatch()


def _label(device_info: Any) -> str:
    return f"{device_info.GetModelName()} {device_info.GetSerialNumber()}"


def one_line(text: object) -> str:
    """A GenICam message without its place in Basler's source, on one line."""
    return " ".join(str(text).split()).split(" : ")[0].rstrip(".")
