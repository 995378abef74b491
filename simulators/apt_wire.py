"""APT controllers on pseudo-terminals: whatever opens the port talks to them as to real ones.

They turn the screws of the simulated bench's carriage, so the bench sees what the real driver and the real library do.
POSIX systems only. One thread serves all ports.
"""

from __future__ import annotations

import math
import os
import queue
import selectors
import shutil
import tempfile
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Literal

from drivers.clock import Clock, SystemClock
from simulators.apt_controller import Controller, Identity
from simulators.apt_motor import Motor, Trouble
from simulators.apt_port import Port
from simulators.apt_protocol import Id, Message, rich_response
from simulators.carriage import Carriage, StageSettings

SWITCHES_M = (-1.0e-4, 25.1e-3)
"""Where the limit switches of a 25 mm actuator close, on the rail: its zero is 0.1 mm above the lower one."""
LAG_S = 0.1
"""For how long after a command the status tells the old state."""
ANSWER_S = 0.3e-3
"""What a message keeps a controller busy for, as seen on a real one."""
BAUD = 115_200
BITS = 10
"""On the line, of one byte."""
KST101_SERIALS = (26_000_001, 26_000_002)
BSC203_SERIAL = 70_000_001
_HEARD = 4096
_CHUNK = 4096


class FaultKind(StrEnum):
    """What goes wrong."""

    SILENT = "silent"
    """Obeys, but answers nothing any more."""
    GARBAGE = "garbage"
    """Sends noise instead of messages."""
    UNPLUGGED = "unplugged"
    """The port vanishes; the motors go on."""
    TRUNCATED = "truncated"
    """One message to the host is cut in half."""
    DELAYED = "delayed"
    """All messages to the host come late."""
    IGNORED = "ignored"
    """One motion is not begun, without a word."""
    STALLED = "stalled"
    """The counter of one motion stops advancing half way."""
    WRONG_ARRIVAL = "wrong arrival"
    """One move ends elsewhere and claims to have arrived."""
    LIMIT_SWITCH = "limit switch"
    """A limit switch closes half way of one move."""


@dataclass(frozen=True)
class WireFault:
    """One failure, brought about by a message from the host.

    Attributes:
        kind: what fails; silence, noise and delay last until `AptWire.heal`.
        axis: 0 for y, 1 for x: whose message brings it about, and whose controller fails.
        message: identifier of that message.
        count: which of them, counted from 1.
        after_s: how much later it happens; failures of the motion itself come with the message.
        delay_s: how late messages are, when they are delayed.
        microsteps: how far from its target a wrong arrival is.
    """

    kind: FaultKind
    axis: int = 0
    message: int = Id.MOVE_ABSOLUTE
    count: int = 1
    after_s: float = 0.0
    delay_s: float = 0.0
    microsteps: int = 1000


@dataclass(frozen=True)
class Heard:
    """A message that a controller has received.

    Attributes:
        time: when it was obeyed, by the wire's clock, monotonic seconds.
        axis: of the carriage; None for a bay without one, or for the whole controller.
        message: what it was.
        ahead: how many messages were before it when it arrived, the one in hand among them.
    """

    time: float
    axis: int | None
    message: Message
    ahead: int = 0


class AptWire:
    """Emulated controllers; a context manager. Their ports exist from `open` to `close`, and once only.

    Args:
        carriage: whose screws they turn: axis 0 is y, 1 is x.
        controller: "kst101" for a pair, one for each axis, or "bsc203" for one with y and x in its first two bays (or
            those of `channels`) and a motor on nothing in the other.
        speed: how much faster than programmed the motors turn; the host is not sped up.
        faults: what will go wrong.
        channels: BSC203: the channels of y and x, counted from 1.
        switches_m: where the limit switches close, on the rail. Homing ends the programmed offset above the lower
            one, so equal displacements with the simulated stage need a lower switch at minus that offset.
        answer_s: how long a controller is busy with a message, and its answer waits; not sped up.
        baud: the line's bits a second in each direction, ten to a byte; not sped up either.
        switch_pause_s: how long a homing axis stands at its switch; sped up like the motors.
        clock: where time comes from.

    Attributes:
        ports: paths of the ports, of y and x, or of the one controller; they stay the same over `plug`.
        heard: the latest messages from the host.
    """

    def __init__(
        self,
        carriage: Carriage,
        controller: Literal["kst101", "bsc203"] = "kst101",
        speed: float = 1.0,
        faults: Iterable[WireFault] = (),
        channels: tuple[int, int] = (1, 2),
        switches_m: tuple[float, float] = SWITCHES_M,
        answer_s: float = ANSWER_S,
        baud: float = BAUD,
        switch_pause_s: float = 0.0,
        clock: Clock | None = None,
    ):
        if not 0 < speed < math.inf:
            raise ValueError(f"speed {speed} is not a finite number above 0")
        self._clock = clock or SystemClock()
        self._speed = speed
        self._faults = list(faults)
        # The ports have their names before they exist, so that a driver can be told of them.
        self._folder = Path(tempfile.gettempdir()) / f"apt-{uuid.uuid4().hex[:12]}"
        self.heard: deque[Heard] = deque(maxlen=_HEARD)
        self._counts: Counter[tuple[int | None, int]] = Counter()
        self._scheduled: list[tuple[float, WireFault]] = []
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running = False
        self._ahead = 0

        def motor(turned: Carriage, axis: int) -> Motor:
            low, high = (round(m * turned.settings.microsteps_per_m) for m in switches_m)
            return Motor(turned, axis, low, high, LAG_S * speed, switch_pause_s)

        own = [motor(carriage, axis) for axis in (0, 1)]
        self._axes = {id(m): axis for axis, m in enumerate(own)}
        if controller == "kst101":
            groups = [(Identity("KST101", serial), [m]) for serial, m in zip(KST101_SERIALS, own, strict=True)]
        else:
            spare = Carriage(StageSettings((0, 1), (0, 1), (0, 0)), 0)
            bays = [motor(spare, 0) for _ in range(3)]
            for axis, channel in enumerate(channels):
                bays[channel - 1] = own[axis]
            groups = [(Identity("BSC203", BSC203_SERIAL), bays)]
        self._ports: list[Port] = []
        self._controllers: list[Controller] = []
        for identity, motors in groups:
            port = Port(self._folder / f"{identity.model.lower()}-{identity.serial}", answer_s, BITS / baud)
            self._ports.append(port)
            self._controllers.append(
                Controller(identity, motors, lambda data, port=port: port.send(data, self._now()), self._listen)  # type: ignore[misc]
            )
        self.ports = tuple(str(port.link) for port in self._ports)
        self._motors = own
        self._thread = threading.Thread(target=self._serve, name="apt-wire", daemon=True)

    def open(self) -> None:
        """Make the ports and answer on them; does nothing when they are there."""
        if self._running:
            return
        self._folder.mkdir()
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = os.pipe()
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        for number in range(len(self._ports)):
            self._plug(number)
        self._running = True
        self._thread.start()

    def __enter__(self) -> AptWire:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unplug all, end the thread, leave nothing behind; may be called twice."""
        if not self._thread.is_alive():
            return
        self._do(self._end)
        self._thread.join()
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def motor(self, axis: int) -> Motor:
        """The motor of an axis, to be looked at."""
        return self._motors[axis]

    def inject(self, fault: WireFault) -> None:
        """Let it go wrong now; motors: with their next motion. Returns when it has been done."""
        self._do(lambda: self._happen(fault))

    def heal(self) -> None:
        """Silence, noise and delays end."""

        def heal() -> None:
            for port in self._ports:
                port.heal()

        self._do(heal)

    def plug(self) -> None:
        """Plug in again what was unplugged, under the same name."""

        def plug() -> None:
            for number, port in enumerate(self._ports):
                if port.master < 0:
                    self._plug(number)

        self._do(plug)

    def report(self, axis: int, code: int, notes: str) -> None:
        """The controller of an axis reports an error of its own accord."""
        number = self._number(axis)
        endpoint = self._controllers[number].endpoint(self._motors[axis])
        self._do(lambda: self._ports[number].send(rich_response(endpoint, 0, code, notes), self._now()))

    def stream(self) -> None:
        """All controllers stream their status, as an earlier program may have asked them to."""

        def stream() -> None:
            for controller in self._controllers:
                controller.stream(self._now())

        self._do(stream)

    def turn_by_hand(self, axis: int, microsteps: int) -> None:
        """Somebody moves the axis at the controller's own knob."""
        self._do(lambda: self._motors[axis].move_to(self._motors[axis].counter + microsteps, self._motor_now()))

    def messages(self, *identifiers: int) -> list[Heard]:
        """What was heard, of these kinds or of all."""
        return [heard for heard in list(self.heard) if not identifiers or heard.message.identifier in identifiers]

    def _do(self, action: Callable[[], object]) -> None:
        """Have the thread do it, and wait for it."""
        done = threading.Event()
        failures: list[BaseException] = []

        def task() -> None:
            try:
                action()
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        self._commands.put(task)
        os.write(self._wake_in, b"!")
        done.wait()
        if failures:
            raise failures[0]

    def _now(self) -> float:
        return self._clock.monotonic()

    def _motor_now(self) -> float:
        return self._now() * self._speed

    def _serve(self) -> None:
        while self._running:
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    os.read(self._wake_out, _CHUNK)
                else:
                    self._read(key.data)
            while not self._commands.empty():
                self._commands.get()()
            self._tick()

    def _read(self, number: int) -> None:
        try:
            data = os.read(self._ports[number].master, _CHUNK)
        except (BlockingIOError, OSError):
            return
        self._ports[number].arrive(self._controllers[number].decode(data), self._now())

    def _tick(self) -> None:
        now = self._now()
        due = [entry for entry in self._scheduled if entry[0] <= now]
        self._scheduled = [entry for entry in self._scheduled if entry[0] > now]
        for _, fault in due:
            self._happen(fault)
        for controller, port in zip(self._controllers, self._ports, strict=True):
            while (turn := port.turn(now)) is not None:
                self._ahead, message = turn
                controller.obey(message, now, self._motor_now())
                port.flush(now)
            controller.tick(now, self._motor_now())
            port.flush(now)

    def _patience(self) -> float | None:
        """Seconds until something happens without a message."""
        times = [time for time, _ in self._scheduled]
        for controller, port in zip(self._controllers, self._ports, strict=True):
            times += [time for time in (controller.stream_due(), port.due()) if time is not None]
            ends = [motor.due for motor in controller.motors.values() if motor.due is not None]
            times += [end / self._speed for end in ends if math.isfinite(end)]
        return max(0.0, min(times) - self._now()) if times else None

    def _listen(self, message: Message, motor: Motor | None) -> None:
        axis = None if motor is None else self._axes.get(id(motor))
        self.heard.append(Heard(self._now(), axis, message, self._ahead))
        self._counts[axis, message.identifier] += 1
        for fault in list(self._faults):
            if (axis, message.identifier, self._counts[axis, message.identifier]) == (
                fault.axis,
                fault.message,
                fault.count,
            ):
                self._faults.remove(fault)
                if fault.after_s > 0:
                    self._scheduled.append((self._now() + fault.after_s, fault))
                else:
                    self._happen(fault)

    def _happen(self, fault: WireFault) -> None:
        number = self._number(fault.axis)
        port, motor = self._ports[number], self._motors[fault.axis]
        match fault.kind:
            case FaultKind.SILENT:
                port.silent = True
            case FaultKind.GARBAGE:
                port.garbage = True
            case FaultKind.UNPLUGGED:
                self._unplug(number)
            case FaultKind.TRUNCATED:
                port.truncate = True
            case FaultKind.DELAYED:
                port.delay_s = fault.delay_s
            case FaultKind.IGNORED:
                motor.trouble = Trouble(ignores=True)
            case FaultKind.STALLED:
                motor.trouble = Trouble(stalls=True)
            case FaultKind.WRONG_ARRIVAL:
                motor.trouble = Trouble(misses=fault.microsteps)
            case FaultKind.LIMIT_SWITCH:
                motor.trouble = Trouble(switch=True)

    def _number(self, axis: int) -> int:
        """Which controller has this axis."""
        return next(n for n, c in enumerate(self._controllers) if self._motors[axis] in c.motors.values())

    def _plug(self, number: int) -> None:
        self._ports[number].plug()
        self._selector.register(self._ports[number].master, selectors.EVENT_READ, number)

    def _unplug(self, number: int) -> None:
        if self._ports[number].master >= 0:
            self._selector.unregister(self._ports[number].master)
            self._ports[number].unplug()

    def _end(self) -> None:
        self._running = False
        for number in range(len(self._ports)):
            self._unplug(number)
