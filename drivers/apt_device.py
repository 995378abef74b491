"""The device classes of thorlabs-apt-device with their traps closed.

What the library is used for: the serial port, its event loop and thread, decoding, building messages, closing. What it
does that an instrument must not do is overridden here, each with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import struct
import threading
from typing import Any

import serial
from thorlabs_apt_device import protocol as apt
from thorlabs_apt_device.devices.aptdevice_motor import APTDevice_Motor
from thorlabs_apt_device.devices.bsc import BSC
from thorlabs_apt_device.enums import EndPoint

from drivers.apt_watch import LimitedLog, Pace, Watch

POLL_INTERVAL_S = 0.01
"""Each axis is asked for its status so often at most."""
READ_INTERVAL_S = 0.003
"""Where the system does not tell when something has arrived."""
HEARTBEAT_S = 0.02
"""Where it does: so often the port is read at least."""
HEADER = 6
"""Bytes of a message's header."""
_CHUNK = 4096
_STATUS_REQUEST = 0x0480
_STATUS = "mot_get_statusupdate"

_logger = logging.getLogger(__name__)


class _Inbox:
    """What one read of the port has brought, for a decoder that asks for a few bytes at a time.

    Every read lets other threads run first; in a busy program one for every few bytes would fall behind for seconds.
    """

    def __init__(self) -> None:
        self._data = b""

    def put(self, data: bytes) -> None:
        self._data += data

    def read(self, size: int) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data


class _Unpacker(apt.Unpacker):
    """Counts what it throws away; the library's own way to tell is a Python warning for every byte."""

    noise = 0
    buf: bytes

    def _decoding_error(self, message: str = "") -> None:
        self.noise += 1
        self.buf = self.buf[1:]


class _Tamed:
    """Overrides of the library's devices; stands before one of them in the order of bases."""

    _port: Any
    _loop: Any
    _unpacker: Any
    _thread: threading.Thread
    _inbox: _Inbox

    def __init__(self, watch: Watch, port: str, **options: Any):
        # Before the library's own: its thread runs before its constructor has ended.
        self._watch = watch
        self._told = False
        self._pace = Pace(POLL_INTERVAL_S / len(watch.states))
        self._turns = itertools.cycle(watch.states)
        self._next_poll: asyncio.TimerHandle | None = None
        super().__init__(serial_port=port, home=False, **options)  # type: ignore[call-arg]

    @property
    def _log(self) -> LimitedLog:
        return self._limited

    @_log.setter
    def _log(self, logger: logging.Logger) -> None:
        self._limited = LimitedLog(logger, self._watch.clock)

    def _schedule_reads(self) -> None:
        """Read what has arrived, at once where the system tells of it, else every few milliseconds."""
        if not isinstance(self._unpacker, _Unpacker):
            # A read that waits starves whatever wants to be written, a stop among it.
            self._port.timeout = 0
            self._port.write_timeout = 0.5
            self._inbox = _Inbox()
            self._unpacker = _Unpacker(self._inbox)
            with contextlib.suppress(NotImplementedError, AttributeError, OSError):
                self._loop.add_reader(self._port.fileno(), self._read)
                self._told = True
            self._poll()
        if self._read():
            self._loop.call_later(HEARTBEAT_S if self._told else READ_INTERVAL_S, self._schedule_reads)

    def _read(self) -> bool:
        """All there is; False when the port is gone. The library's own ends for good with one malformed message."""
        before = self._unpacker.noise
        try:
            self._inbox.put(self._port.read(_CHUNK))
        except Exception as error:
            why = "unplugged or switched off" if isinstance(error, serial.SerialException) else one_line(error)
            self._give_up(f"is gone ({why}); plug it in, switch it on, then close and open it")
            return False
        try:
            self._decode()
            self._watch.passed(self._unpacker.noise - before)
        except Exception as error:
            # Not the controller's doing: whoever looks for a loose cable now looks in vain.
            _logger.exception("%s: what it said could not be handled", self._watch.name)
            self._give_up(
                f"is connected, but this program failed over what it said ({type(error).__name__}: {one_line(error)}); "
                "report this with its log, then close and open it"
            )
            return False
        return True

    def _decode(self) -> None:
        """All messages that are complete."""
        while True:
            noise = self._unpacker.noise
            try:
                message = next(self._unpacker)
            except StopIteration:
                # In noise it gives up after every byte and would fall behind for ever.
                if self._unpacker.noise == noise:
                    return
            except (struct.error, AssertionError, IndexError):
                self._unpacker.noise += HEADER
            else:
                self._process_message(message)

    def _give_up(self, fault: str) -> None:
        """Read no more. A port that nobody reads would wake the loop for ever."""
        if self._told:
            self._loop.remove_reader(self._port.fileno())
        self._watch.fail(fault)

    def _process_message(self, message: Any) -> None:
        """Kept by the watch alone: the library's dictionaries miss messages and tell old values for ever."""
        if message.msg == _STATUS:
            self._pace.answered(self._watch.clock.monotonic())
            self._plan_poll()
        self._watch.hear(message)

    def _schedule_updates(self) -> None:
        """The library's polling begins a quarter of a second late and asks bays that are not in use."""

    def _poll(self) -> None:
        """Ask one axis after the other for its status, as fast as the controller answers."""
        if self._watch.fault is not None:
            return
        if self._pace.due(self._watch.clock.monotonic()) <= 0:
            self._write(apt.mot_req_statusupdate(dest=next(self._turns), source=EndPoint.HOST, chan_ident=1))
        self._plan_poll()

    def _plan_poll(self) -> None:
        """Poll when it is due by what is known now."""
        if self._next_poll is not None:
            self._next_poll.cancel()
        self._next_poll = self._loop.call_later(self._pace.due(self._watch.clock.monotonic()), self._poll)

    def _write(self, command: bytes) -> None:
        """Write one message, without waiting for the line to drain: that would block the loop, and reading with it."""
        identifier, _, destination, _ = struct.unpack_from("<HHBB", command)
        if identifier == _STATUS_REQUEST:
            # Whoever asks: one that a motion asks for is on its way like a polled one.
            self._pace.asked(self._watch.clock.monotonic())
            self._watch.asked(destination)
        try:
            self._port.write(command)
        except serial.SerialTimeoutException:
            # The line takes nothing, and silence will be noticed; or only this thread was held up after writing.
            return
        except Exception as error:
            self._watch.fail(f"cannot be written to ({one_line(error)}); plug it in, then close and open it")


class Kst101(_Tamed, APTDevice_Motor):
    """A K-Cube stepper controller; the library has no class for it."""


class Bsc(_Tamed, BSC):
    """A benchtop stepper controller."""


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
