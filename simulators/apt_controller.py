"""An emulated APT controller: messages in, messages out, motors in between. No port and no thread.

Two kinds: a KST101 (one channel at the endpoint 0x50) and a BSC203 (a rack at 0x11 with bays at 0x21 .. 0x23, each
with a channel 1).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulators import apt_protocol as apt
from simulators.apt_motor import IMMEDIATE, Ended, Motor
from simulators.apt_protocol import BAYS, RACK, USB, Decoder, Id, Message

STREAM_INTERVAL_S = 0.1
STREAM_UNACKNOWLEDGED = 50
"""Streamed updates without an acknowledgement after which a controller gives up."""
_ON, _OFF = 1, 2


class Refusal(Exception):
    """A request that the controller reports as an error, with its code."""

    def __init__(self, code: int, notes: str):
        super().__init__(notes)
        self.code = code
        self.notes = notes


@dataclass(frozen=True)
class Identity:
    """Who a controller says it is.

    Attributes:
        model: at most 8 characters.
        serial: serial number.
        firmware: (major, interim, minor).
    """

    model: str
    serial: int
    firmware: tuple[int, int, int] = (1, 2, 3)


class Controller:
    """One controller with its motors.

    Args:
        identity: who it is.
        motors: a single one makes a KST101, several make the bays of a BSC20x.
        emit: takes the bytes that go to the host.
        on_message: told each message from the host with its motor (None: for the whole controller) before it is
            obeyed; faults are hung on it.
    """

    def __init__(
        self,
        identity: Identity,
        motors: Sequence[Motor],
        emit: Callable[[bytes], None],
        on_message: Callable[[Message, Motor | None], None] = lambda message, motor: None,
    ):
        self.identity = identity
        self.rack = len(motors) > 1
        self.motors = dict(zip(BAYS if self.rack else (USB,), motors, strict=False))
        self._emit = emit
        self._on_message = on_message
        self._decoder = Decoder()
        self._stream_due: float | None = None
        self._unacknowledged = 0
        self._trigger = dict.fromkeys(self.motors, 0)
        self._handlers = {
            Id.IDENTIFY: self._nothing,
            Id.ACK_STATUSUPDATE: self._acknowledge,
            Id.SET_CHANENABLE: self._set_enable,
            Id.REQ_CHANENABLE: self._get_enable,
            Id.SET_POSCOUNTER: self._set_counter,
            Id.REQ_POSCOUNTER: self._get_counter,
            Id.MOVE_HOME: self._home,
            Id.MOVE_RELATIVE: self._move_relative,
            Id.MOVE_ABSOLUTE: self._move_absolute,
            Id.MOVE_VELOCITY: self._run,
            Id.MOVE_JOG: self._jog,
            Id.MOVE_STOP: self._stop,
            Id.REQ_STATUSUPDATE: self._get_status,
            Id.REQ_STATUSBITS: self._get_status_bits,
            Id.SET_TRIGGER: self._set_trigger,
            Id.REQ_TRIGGER: self._get_trigger,
        }

    def receive(self, data: bytes, now: float, motor_now: float) -> None:
        """Obey what has arrived; answers go to `emit`.

        Args:
            data: bytes from the host, in any pieces.
            now: seconds, for what is streamed.
            motor_now: seconds of the motors' time.
        """
        for message in self.decode(data):
            self.obey(message, now, motor_now)

    def decode(self, data: bytes) -> list[Message]:
        """The messages that are complete with these bytes from the host, not yet obeyed."""
        return self._decoder.feed(data)

    def tick(self, now: float, motor_now: float) -> None:
        """Report what has ended, and stream what is due."""
        for endpoint, motor in self.motors.items():
            for ended in motor.advance(motor_now):
                self._report(endpoint, motor, ended, motor_now)
        while self._stream_due is not None and now >= self._stream_due:
            self._unacknowledged += 1
            self._stream_due += STREAM_INTERVAL_S
            if self._unacknowledged > STREAM_UNACKNOWLEDGED:
                self._stream_due = None
                break
            for endpoint, motor in self.motors.items():
                self._status(Id.GET_STATUSUPDATE, endpoint, motor, motor_now)

    def stream(self, now: float) -> None:
        """Begin to send the status ten times a second."""
        self._stream_due, self._unacknowledged = now + STREAM_INTERVAL_S, 0

    def stream_due(self) -> float | None:
        """When the next streamed update is due."""
        return self._stream_due

    def endpoint(self, motor: Motor) -> int:
        """Where one of its motors is addressed."""
        return next(endpoint for endpoint, own in self.motors.items() if own is motor)

    def obey(self, message: Message, now: float, motor_now: float) -> None:
        """Obey one message; arguments as `receive`."""
        endpoint = message.destination
        motor = self.motors.get(endpoint)
        if motor is None and not (self.rack and endpoint == RACK):
            return  # as on any bus: somebody else's
        for ended in motor.advance(motor_now) if motor is not None else ():
            assert motor is not None
            self._report(endpoint, motor, ended, motor_now)
        self._on_message(message, motor)
        try:
            if self._general(message, endpoint, now):
                return
            if motor is None:
                raise Refusal(1, f"the rack knows no message 0x{message.identifier:04X}")
            self._for_motor(message, endpoint, motor, motor_now)
        except Refusal as refusal:
            self._emit(apt.rich_response(endpoint, message.identifier, refusal.code, refusal.notes))

    def _general(self, message: Message, endpoint: int, now: float) -> bool:
        """Messages that any endpoint takes."""
        if message.identifier == Id.HW_REQ_INFO:
            who = self.identity
            channels = len(self.motors) if endpoint == RACK else 1
            self._emit(apt.information(endpoint, who.serial, who.model, who.firmware, channels))
        elif message.identifier == Id.HW_START_UPDATES:
            self.stream(now)
        elif message.identifier in (Id.HW_STOP_UPDATES, Id.HW_DISCONNECT):
            self._stream_due = None
        elif message.identifier == Id.RACK_REQ_BAYUSED and endpoint == RACK:
            bay = message.parameters[0]
            used = _ON if bay < len(self.motors) else _OFF
            self._emit(apt.short(Id.RACK_GET_BAYUSED, endpoint, bay, used))
        else:
            return False
        return True

    def _for_motor(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        identifier = message.identifier
        if identifier == Id.SET_ACTUATORTYPE and not self.rack:
            motor.actuator = message.parameters[0]
            return
        known = identifier in self._handlers or identifier in apt.SETTERS or identifier in apt.REQUESTS
        if not known:
            raise Refusal(1, f"unknown message 0x{identifier:04X}")
        if message.channel != 1 and identifier != Id.ACK_STATUSUPDATE:
            raise Refusal(2, f"no channel {message.channel}")
        if (name := apt.SETTERS.get(identifier)) is not None:
            values = apt.PARAMETERS[name].unpack(message.data or b"")
            if values is None:
                raise Refusal(3, f"wrong length of message 0x{identifier:04X}")
            motor.parameters[name] = values
        elif (name := apt.REQUESTS.get(identifier)) is not None:
            block = apt.PARAMETERS[name]
            self._emit(apt.long(block.get_id, endpoint, block.pack(1, motor.parameters[name])))
        else:
            self._handlers[Id(identifier)](message, endpoint, motor, now)

    def _report(self, endpoint: int, motor: Motor, ended: Ended, now: float) -> None:
        if ended is Ended.HOMED:
            self._emit(apt.short(Id.MOVE_HOMED, endpoint, 1))
        else:
            identifier = Id.MOVE_COMPLETED if ended is Ended.COMPLETED else Id.MOVE_STOPPED
            self._status(identifier, endpoint, motor, now)

    def _status(self, identifier: int, endpoint: int, motor: Motor, now: float) -> None:
        self._emit(apt.status(identifier, endpoint, 1, motor.counter, int(motor.bits(now))))

    def _nothing(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        pass

    def _acknowledge(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._unacknowledged = 0

    def _set_enable(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        motor.enabled = self._choice(message) == _ON

    def _get_enable(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._emit(apt.short(Id.GET_CHANENABLE, endpoint, 1, _ON if motor.enabled else _OFF))

    def _set_counter(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        motor.count_from(self._number(message))

    def _get_counter(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._emit(apt.long(Id.GET_POSCOUNTER, endpoint, struct.pack("<Hl", 1, motor.counter)))

    def _home(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._require_current(motor)
        motor.home(now)

    def _move_relative(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._require_current(motor)
        stored = motor.parameters["relative"]["distance"]
        motor.move_to(motor.counter + (stored if message.data is None else self._number(message)), now)

    def _move_absolute(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._require_current(motor)
        stored = motor.parameters["absolute"]["position"]
        motor.move_to(stored if message.data is None else self._number(message), now)

    def _run(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._require_current(motor)
        motor.run(self._choice(message), now)

    def _jog(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._require_current(motor)
        motor.jog(self._choice(message), now)

    def _stop(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        for ended in motor.stop(now, immediate=self._choice(message) == IMMEDIATE):
            self._report(endpoint, motor, ended, now)

    def _get_status(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._status(Id.GET_STATUSUPDATE, endpoint, motor, now)

    def _get_status_bits(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._emit(apt.long(Id.GET_STATUSBITS, endpoint, struct.pack("<HL", 1, int(motor.bits(now)))))

    def _set_trigger(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._trigger[endpoint] = message.parameters[1]

    def _get_trigger(self, message: Message, endpoint: int, motor: Motor, now: float) -> None:
        self._emit(apt.short(Id.GET_TRIGGER, endpoint, 1, self._trigger[endpoint]))

    @staticmethod
    def _require_current(motor: Motor) -> None:
        if not motor.enabled:
            raise Refusal(4, "the channel is disabled")

    @staticmethod
    def _number(message: Message) -> int:
        """The position or distance in a message's data."""
        if message.data is None or len(message.data) != 6:
            raise Refusal(3, f"wrong length of message 0x{message.identifier:04X}")
        return int(struct.unpack_from("<Hl", message.data)[1])

    @staticmethod
    def _choice(message: Message) -> int:
        """The second parameter of a header-only message: 1 or 2."""
        if message.data is not None or message.parameters[1] not in (1, 2):
            raise Refusal(3, f"wrong parameter of message 0x{message.identifier:04X}")
        return message.parameters[1]
