"""An open connection to one Thorlabs APT controller. Microsteps and the protocol's units, no metres."""

from __future__ import annotations

import atexit
import contextlib
import os
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import serial
from serial.tools import list_ports
from thorlabs_apt_device import protocol as apt
from thorlabs_apt_device.enums import EndPoint

from drivers.apt_device import Bsc, Kst101, one_line
from drivers.apt_settings import ControllerKind, MotionParameters
from drivers.apt_watch import AxisState, Watch
from drivers.base import ConnectionLost, DeviceTimeout, InstrumentError, NotReadyError
from drivers.clock import Clock

try:
    import fcntl
except ImportError:  # Windows opens serial ports exclusively by itself
    fcntl = None  # type: ignore[assignment]

ANSWER_S = 1.0
"""A request that has not been answered for so long, twice, never will be."""
HANG_S = 2.0
"""The library's thread has not read for so long, though it lives: it hangs."""
JOIN_S = 3.0
ACTUATOR_ZFS25 = 0x42
_MODELS = {"kst101": ("KST", "TST101"), "bsc203": ("BSC2", "SCC2")}


@dataclass(frozen=True)
class Identity:
    """What a controller says it is."""

    model: str
    serial: str
    firmware: str


class AptLink:
    """An open connection to one controller.

    Args:
        kind: which controller is expected.
        address: serial number, or the path of a port.
        channels: 1-based channels (bays) in use; (1,) for a KST101.
        clock: for the age of what was heard; must run with real time, as the controller does.
        bell: rung with everything that is heard; may be shared by several links.
        name: for messages.

    Raises:
        ConnectionLost: not found, cannot be opened, or does not answer. NotReadyError: in use, or another model.
    """

    def __init__(
        self,
        kind: ControllerKind,
        address: str,
        channels: Sequence[int],
        clock: Clock,
        bell: threading.Condition,
        name: str,
    ):
        self.name = name
        self.port = find_port(address, name)
        self._kind = kind
        self._bell = bell
        bays = (EndPoint.BAY0, EndPoint.BAY1, EndPoint.BAY2)
        endpoints = [EndPoint.USB if kind == "kst101" else bays[channel - 1] for channel in channels]
        self._endpoints = [int(endpoint) for endpoint in endpoints]
        self._watch = Watch(name, self._endpoints, clock, bell)
        _require_free(self.port, name)
        try:
            if kind == "kst101":
                self._device: Any = Kst101(self._watch, self.port, controller=None, bays=(EndPoint.USB,), channels=(1,))
            else:
                self._device = Bsc(self._watch, self.port, x=max(channels))
        except (OSError, serial.SerialException) as error:
            raise ConnectionLost(name, f"cannot open {self.port} ({one_line(error)}); {_hint(error)}") from error
        self._closed = False
        try:
            with contextlib.suppress(AttributeError, NotImplementedError):
                self._device._port.exclusive = True
            self.identity = self._identify(address)
            self.refresh()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the motors, close the port and wait for the library's thread; may be called twice, never raises."""
        if self._closed:
            return
        self._closed = True
        device = self._device
        with contextlib.suppress(Exception):
            device.close()
        device._thread.join(JOIN_S)
        if device._thread.is_alive():
            with contextlib.suppress(Exception):
                device._port.close()
            device._thread.join(JOIN_S)
        # The library keeps every device that ever was for the end of the program.
        atexit.unregister(device._atexit)

    def check(self) -> None:
        """Raise `ConnectionLost` unless the controller has answered of late and the library's thread lives."""
        watch = self._watch
        if self._closed:
            raise ConnectionLost(self.name, "has been closed; open it again")
        if watch.fault is None and not self._device._thread.is_alive():
            watch.fail("is not being read any more, the library's thread has died; close and open it")
        if watch.fault is None and watch.clock.monotonic() - watch.passed_at > HANG_S:
            # A program that was suspended gives the thread a moment to show that it lives.
            with self._bell:
                passes = watch.passes
                self._bell.wait_for(lambda: watch.passes != passes or watch.fault is not None, timeout=0.5)
                if watch.passes == passes:
                    watch.fail("is not being read any more, the library's thread hangs; close and open it")
        if watch.fault is not None:
            raise ConnectionLost(self.name, watch.fault)

    def state(self, index: int) -> AxisState:
        """The latest state of the axis at this index of `channels`."""
        return self._watch.states[self._endpoints[index]]

    @property
    def heard(self) -> int:
        """How many messages have come."""
        return self._watch.heard

    @property
    def reported(self) -> int:
        """How many errors the controller has reported."""
        return self._watch.reported

    @property
    def last_report(self) -> str:
        """The latest of them, as text."""
        return self._watch.reports[-1][1] if self._watch.reports else ""

    def refresh(self) -> None:
        """Wait for a status of every axis that is newer than this call. Raises `ConnectionLost`."""
        for index, endpoint in enumerate(self._endpoints):
            self._ask(apt.mot_req_statusupdate, "mot_get_statusupdate", index, endpoint=endpoint)

    def enable(self, index: int) -> None:
        """Give the motor current; nothing moves."""
        self._send(apt.mod_set_chanenablestate, index, enable_state=1)

    def move(self, index: int, position: int) -> None:
        """Send the axis to a position, microsteps."""
        self._send(apt.mot_move_absolute, index, position=position)

    def home(self, index: int) -> None:
        """Send the axis to its reference."""
        self._send(apt.mot_move_home, index)

    def stop(self, immediate: bool) -> None:
        """Stop every axis; returns before it has been sent, which takes the library's thread less than 50 ms."""
        for index in range(len(self._endpoints)):
            self._send(apt.mot_move_stop, index, stop_mode=1 if immediate else 2)

    def write_parameters(self, index: int, wanted: MotionParameters) -> None:
        """Write all that shapes a motion; nothing moves."""
        if self._kind == "kst101":
            self._post(
                apt.mot_set_tssactuatortype(
                    dest=self._endpoints[index], source=EndPoint.HOST, actuator_ident=ACTUATOR_ZFS25
                )
            )
        self._send(
            apt.mot_set_velparams,
            index,
            min_velocity=wanted.minimum_velocity,
            acceleration=wanted.acceleration,
            max_velocity=wanted.velocity,
        )
        self._send(
            apt.mot_set_homeparams,
            index,
            home_dir=wanted.homing_direction,
            limit_switch=wanted.homing_switch,
            home_velocity=wanted.homing_velocity,
            offset_distance=wanted.homing_offset,
        )
        self._send(apt.mot_set_genmoveparams, index, backlash_distance=wanted.backlash)
        self._send(
            apt.mot_set_limswitchparams,
            index,
            cw_hardlimit=wanted.forward_switch,
            ccw_hardlimit=wanted.reverse_switch,
            cw_softlimit=0,
            ccw_softlimit=0,
            soft_limit_mode=wanted.soft_limits,
        )

    def read_parameters(self, index: int) -> MotionParameters:
        """What the controller has. Raises `DeviceTimeout`, `ConnectionLost`."""
        velocity = self._ask(apt.mot_req_velparams, "mot_get_velparams", index)
        homing = self._ask(apt.mot_req_homeparams, "mot_get_homeparams", index)
        general = self._ask(apt.mot_req_genmoveparams, "mot_get_genmoveparams", index)
        switches = self._ask(apt.mot_req_limswitchparams, "mot_get_limswitchparams", index)
        return MotionParameters(
            minimum_velocity=velocity.min_velocity,
            velocity=velocity.max_velocity,
            acceleration=velocity.acceleration,
            homing_velocity=homing.home_velocity,
            homing_offset=homing.offset_distance,
            homing_direction=homing.home_dir,
            homing_switch=homing.limit_switch,
            backlash=general.backlash_distance,
            forward_switch=switches.cw_hardlimit,
            reverse_switch=switches.ccw_hardlimit,
            soft_limits=switches.soft_limit_mode,
        )

    def _identify(self, address: str) -> Identity:
        endpoint = int(EndPoint.USB if self._kind == "kst101" else EndPoint.RACK)
        try:
            told = self._ask(apt.hw_req_info, "hw_get_info", None, endpoint=endpoint)
        except (ConnectionLost, DeviceTimeout) as error:
            raise type(error)(
                self.name,
                f"{self.port} does not answer as a {self._kind.upper()}; is it one, and is it switched on? "
                f"({error.args[0].removeprefix(self.name + ': ')})",
            ) from error
        model = told.model_number.split(b"\0")[0].decode("ascii", "replace").strip()
        identity = Identity(model, str(told.serial_number), ".".join(str(part) for part in told.firmware_version))
        if not model.startswith(_MODELS[self._kind]):
            raise NotReadyError(
                self.name,
                f"{self.port} is a {model or 'nameless controller'}, not a {self._kind.upper()}, and may count other "
                "steps; correct stage.controller or stage.serials",
            )
        if not _is_path(address) and identity.serial != address:
            raise NotReadyError(self.name, f"{self.port} is number {identity.serial}, not {address}; open it again")
        return identity

    def _ask(self, build: Callable[..., bytes], reply: str, index: int | None, endpoint: int | None = None) -> Any:
        """Request and wait for the answer, twice if need be."""
        target = self._endpoints[index or 0] if endpoint is None else endpoint
        options = {} if index is None else {"chan_ident": 1}
        request = build(dest=target, source=EndPoint.HOST, **options)
        identifier = struct.unpack_from("<H", request)[0]
        watch = self._watch
        with self._bell:
            count, _ = watch.replies.get((reply, target), (0, None))
            reported = watch.reported

        def answered() -> bool:
            return watch.replies.get((reply, target), (0, None))[0] > count

        def over() -> bool:
            refused = watch.reported > reported and watch.reports[-1][0] == identifier
            return answered() or refused or watch.fault is not None

        for _ in range(2):
            self._post(request)
            with self._bell:
                self._bell.wait_for(over, timeout=ANSWER_S / 2)
                if answered():
                    return watch.replies[reply, target][1]
            self.check()
            if watch.reported > reported:
                raise InstrumentError(self.name, f"refused a request ({self.last_report}); check its model and channel")
        raise DeviceTimeout(
            self.name, f"{self.port} did not answer within {ANSWER_S:g} s; is it the controller, and is it switched on?"
        )

    def _send(self, build: Callable[..., bytes], index: int, **values: int) -> None:
        self._post(build(dest=self._endpoints[index], source=EndPoint.HOST, chan_ident=1, **values))

    def _post(self, command: bytes) -> None:
        """Hand the bytes to the library's thread."""
        loop = self._device._loop
        try:
            loop.call_soon_threadsafe(self._device._write, command)
        except (AttributeError, RuntimeError):
            raise ConnectionLost(self.name, "has been closed; open it again") from None


def find_port(address: str, name: str) -> str:
    """The port of a serial number, or the path itself. The library would take any number that begins alike.

    Raises:
        ConnectionLost: no port has that number; the message names those that are there.
    """
    if _is_path(address):
        return address
    ports = list(list_ports.comports())
    for port in ports:
        if port.serial_number == address:
            return str(port.device)
    there = ", ".join(f"{port.serial_number} at {port.device}" for port in ports if port.serial_number) or "none"
    raise ConnectionLost(
        name, f"no controller with serial number {address} is connected (there: {there}); plug it in, switch it on"
    )


def _is_path(address: str) -> bool:
    return "/" in address or address.upper().startswith("COM")


def _require_free(port: str, name: str) -> None:
    """Raise `NotReadyError` when another program holds the port: both would read each other's answers."""
    if fcntl is None:
        return
    try:
        handle = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return  # opening it in earnest says what is wrong
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NotReadyError(name, f"{port} is in use by another program; close that first") from None
    finally:
        os.close(handle)


def _hint(error: Exception) -> str:
    if getattr(error, "errno", None) == 13:
        return "add yourself to the group dialout and log in again"
    return "plug it in, switch it on"
