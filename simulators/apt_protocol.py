"""The bytes of Thorlabs' APT protocol, as a controller sees them; written from the protocol's description.

A message is a header of six bytes, little endian: identifier (2), then either two parameters (1 + 1) or the length of
the data that follows (2), destination (1, its highest bit set when data follow), source (1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

HEADER = 6
LONGEST_DATA = 255
"""The protocol's own statement; a longer length is no message."""
HOST = 0x01
RACK = 0x11
BAYS = (0x21, 0x22, 0x23)
USB = 0x50
"""The one endpoint of a K-Cube."""


class Id(IntEnum):
    """Identifiers of messages; SET and REQ come from the host, GET goes to it."""

    HW_DISCONNECT = 0x0002
    HW_REQ_INFO = 0x0005
    HW_GET_INFO = 0x0006
    HW_START_UPDATES = 0x0011
    HW_STOP_UPDATES = 0x0012
    RACK_REQ_BAYUSED = 0x0060
    RACK_GET_BAYUSED = 0x0061
    HW_RICH_RESPONSE = 0x0081
    SET_CHANENABLE = 0x0210
    REQ_CHANENABLE = 0x0211
    GET_CHANENABLE = 0x0212
    IDENTIFY = 0x0223
    SET_POSCOUNTER = 0x0410
    REQ_POSCOUNTER = 0x0411
    GET_POSCOUNTER = 0x0412
    SET_VELPARAMS = 0x0413
    REQ_VELPARAMS = 0x0414
    SET_JOGPARAMS = 0x0416
    REQ_JOGPARAMS = 0x0417
    SET_LIMSWITCHPARAMS = 0x0423
    REQ_LIMSWITCHPARAMS = 0x0424
    SET_POWERPARAMS = 0x0426
    REQ_POWERPARAMS = 0x0427
    REQ_STATUSBITS = 0x0429
    GET_STATUSBITS = 0x042A
    SET_GENMOVEPARAMS = 0x043A
    REQ_GENMOVEPARAMS = 0x043B
    SET_HOMEPARAMS = 0x0440
    REQ_HOMEPARAMS = 0x0441
    MOVE_HOME = 0x0443
    MOVE_HOMED = 0x0444
    SET_MOVERELPARAMS = 0x0445
    REQ_MOVERELPARAMS = 0x0446
    MOVE_RELATIVE = 0x0448
    SET_MOVEABSPARAMS = 0x0450
    REQ_MOVEABSPARAMS = 0x0451
    MOVE_ABSOLUTE = 0x0453
    MOVE_VELOCITY = 0x0457
    MOVE_COMPLETED = 0x0464
    MOVE_STOP = 0x0465
    MOVE_STOPPED = 0x0466
    MOVE_JOG = 0x046A
    REQ_STATUSUPDATE = 0x0480
    GET_STATUSUPDATE = 0x0481
    ACK_STATUSUPDATE = 0x0492
    SET_ACTUATORTYPE = 0x04FE
    SET_TRIGGER = 0x0500
    REQ_TRIGGER = 0x0501
    GET_TRIGGER = 0x0502
    SET_KSTLOOPPARAMS = 0x0529
    REQ_KSTLOOPPARAMS = 0x052A


class StatusBit(IntFlag):
    """What a status message says of an axis."""

    FORWARD_SWITCH = 0x1
    REVERSE_SWITCH = 0x2
    MOVING_FORWARD = 0x10
    MOVING_REVERSE = 0x20
    CONNECTED = 0x100
    HOMING = 0x200
    HOMED = 0x400
    ENABLED = 0x80000000


@dataclass(frozen=True)
class ParameterBlock:
    """One block of parameters that a controller stores and tells again.

    Attributes:
        set_id, request_id, get_id: the three messages.
        layout: struct format of what follows the channel number.
        fields: its names.
        initial: its values when the controller is switched on.
    """

    set_id: int
    request_id: int
    get_id: int
    layout: str
    fields: tuple[str, ...]
    initial: tuple[int, ...]

    def unpack(self, data: bytes) -> dict[str, int] | None:
        """The values in the data of a SET message; None when the length is wrong."""
        if len(data) != 2 + struct.calcsize("<" + self.layout):
            return None
        return dict(zip(self.fields, struct.unpack_from("<" + self.layout, data, 2), strict=True))

    def pack(self, channel: int, values: dict[str, int]) -> bytes:
        """The data of a GET message."""
        return struct.pack("<H" + self.layout, channel, *(values[name] for name in self.fields))


# What is set here is deliberately not what a bench wants: 0.1 mm/s, and a backlash correction of its own.
PARAMETERS: dict[str, ParameterBlock] = {
    "velocity": ParameterBlock(
        Id.SET_VELPARAMS,
        Id.REQ_VELPARAMS,
        0x0415,
        "lll",
        ("minimum", "acceleration", "maximum"),
        (0, 24_032, 11_726_575),
    ),
    "jog": ParameterBlock(
        Id.SET_JOGPARAMS,
        Id.REQ_JOGPARAMS,
        0x0418,
        "HllllH",
        ("mode", "step", "minimum", "acceleration", "maximum", "stop_mode"),
        (2, 218_453, 0, 24_032, 11_726_575, 2),
    ),
    "switches": ParameterBlock(
        Id.SET_LIMSWITCHPARAMS,
        Id.REQ_LIMSWITCHPARAMS,
        0x0425,
        "HHLLH",
        ("forward", "reverse", "soft_forward", "soft_reverse", "soft_mode"),
        (2, 2, 0, 0, 1),
    ),
    "power": ParameterBlock(
        Id.SET_POWERPARAMS, Id.REQ_POWERPARAMS, 0x0428, "HH", ("rest_percent", "move_percent"), (15, 100)
    ),
    "general": ParameterBlock(
        Id.SET_GENMOVEPARAMS, Id.REQ_GENMOVEPARAMS, 0x043C, "l", ("backlash_distance",), (43_691,)
    ),
    "homing": ParameterBlock(
        Id.SET_HOMEPARAMS,
        Id.REQ_HOMEPARAMS,
        0x0442,
        "HHll",
        ("direction", "switch", "velocity", "offset"),
        (2, 1, 11_726_575, 43_691),
    ),
    "relative": ParameterBlock(Id.SET_MOVERELPARAMS, Id.REQ_MOVERELPARAMS, 0x0447, "l", ("distance",), (0,)),
    "absolute": ParameterBlock(Id.SET_MOVEABSPARAMS, Id.REQ_MOVEABSPARAMS, 0x0452, "l", ("position",), (0,)),
    "loop": ParameterBlock(
        Id.SET_KSTLOOPPARAMS,
        Id.REQ_KSTLOOPPARAMS,
        0x052B,
        "HlllllL",
        ("mode", "proportional", "integral", "differential", "clip", "tolerance", "encoder"),
        (1, 0, 0, 0, 0, 0, 0),
    ),
}
SETTERS = {block.set_id: name for name, block in PARAMETERS.items()}
REQUESTS = {block.request_id: name for name, block in PARAMETERS.items()}


@dataclass(frozen=True)
class Message:
    """One message from the host.

    Attributes:
        identifier: what it is, known or not.
        parameters: the two header bytes; (0, 0) when data follow.
        data: what follows the header, or None.
        destination, source: endpoints.
    """

    identifier: int
    parameters: tuple[int, int]
    data: bytes | None
    destination: int
    source: int = HOST

    @property
    def size(self) -> int:
        """Bytes of it."""
        return HEADER + (0 if self.data is None else len(self.data))

    @property
    def channel(self) -> int | None:
        """The channel that it is for; None when it has no room for one."""
        if self.data is None:
            return self.parameters[0]
        return struct.unpack_from("<H", self.data)[0] if len(self.data) >= 2 else None


class Decoder:
    """Cuts what arrives into messages, whatever the pieces it arrives in.

    Attributes:
        rejected: bytes that belong to no message: a wrong source or an impossible length.
    """

    def __init__(self) -> None:
        self.rejected = 0
        self._buffer = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with this piece."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= HEADER:
            identifier, length, destination, source = struct.unpack_from("<HHBB", self._buffer)
            follows = bool(destination & 0x80)
            if source != HOST or (follows and length > LONGEST_DATA):
                self._buffer = self._buffer[1:]
                self.rejected += 1
                continue
            size = HEADER + (length if follows else 0)
            if len(self._buffer) < size:
                break
            body = self._buffer[HEADER:size] if follows else None
            parameters = (0, 0) if follows else (self._buffer[2], self._buffer[3])
            messages.append(Message(identifier, parameters, body, destination & 0x7F, source))
            self._buffer = self._buffer[size:]
        return messages


def short(identifier: int, source: int, first: int = 0, second: int = 0) -> bytes:
    """A message to the host that is a header only."""
    return struct.pack("<HBBBB", identifier, first, second, HOST, source)


def long(identifier: int, source: int, data: bytes) -> bytes:
    """A message to the host with data."""
    return struct.pack("<HHBB", identifier, len(data), HOST | 0x80, source) + data


def status(identifier: int, source: int, channel: int, position: int, bits: int) -> bytes:
    """Status update, move completed or move stopped of a stepper: position, encoder count (none) and status bits."""
    return long(identifier, source, struct.pack("<HllL", channel, position, 0, bits))


def information(source: int, serial: int, model: str, firmware: tuple[int, int, int], channels: int) -> bytes:
    """Answer to the request for hardware information; the firmware is (major, interim, minor)."""
    major, interim, minor = firmware
    data = struct.pack(
        "<l8sHBBBB60sHHH",
        serial,
        model.encode("ascii"),
        16,
        minor,
        interim,
        major,
        0,
        b"emulated controller",
        1,
        0,
        channels,
    )
    return long(Id.HW_GET_INFO, source, data)


def rich_response(source: int, identifier: int, code: int, notes: str) -> bytes:
    """An error report: which message caused it (0: none), a code and a text of at most 64 bytes."""
    return long(
        Id.HW_RICH_RESPONSE, source, struct.pack("<HH64s", identifier, code, notes.encode("ascii", "replace")[:64])
    )
