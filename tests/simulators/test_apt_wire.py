"""The emulated APT controllers: their bytes by hand and by the library, their motors in virtual time, their ports."""

from __future__ import annotations

import contextlib
import math
import os
import select
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thorlabs_apt_device import protocol as library
from thorlabs_apt_device.protocol.parsing import id_to_func

from simulators import apt_protocol as apt
from simulators.apt_controller import Controller, Identity
from simulators.apt_motor import Motor, Trouble
from simulators.apt_port import Port
from simulators.apt_protocol import Decoder, Id, StatusBit
from simulators.apt_wire import AptWire, FaultKind, WireFault
from simulators.carriage import Carriage, StageSettings

BENCH = StageSettings((0.5e-3, 24.5e-3), (0.5e-3, 24.5e-3), (12.5e-3, 12.5e-3))
MM = 2_184_533
SWITCHES = (-218_453, 54_831_787)
V = 2_184_533.333
LAG = 0.1


class Desk:
    """Controllers without a port, in a time that the test turns on."""

    def __init__(self, bays=1, model="KST101"):
        self.carriage = Carriage(BENCH, 5)
        self.now = 0.0
        self.out = b""
        self.motors = [Motor(self.carriage, axis % 2, *SWITCHES, LAG) for axis in range(bays)]
        self.controller = Controller(Identity(model, 26_000_001, (2, 1, 7)), self.motors, self._emit)

    def _emit(self, data):
        self.out += data

    def say(self, data: bytes) -> bytes:
        """What it answers at once."""
        self.out = b""
        self.controller.receive(data, self.now, self.now)
        return self.out

    def wait(self, seconds: float, step: float = 0.01) -> bytes:
        """What it says by itself meanwhile."""
        self.out = b""
        end = self.now + seconds
        while self.now < end - 1e-12:
            self.now = min(self.now + step, end)
            self.controller.tick(self.now, self.now)
        return self.out

    def prepared(self) -> Desk:
        """With current, 1 mm/s and 1 mm/s^2, no backlash correction."""
        self.say(bytes.fromhex("10 02 01 01 50 01"))
        self.say(library.mot_set_velparams(0x50, 1, 1, 0, 24_032, round(V * 53.68)))
        self.say(library.mot_set_genmoveparams(0x50, 1, 1, 0))
        return self


def parsed(data: bytes) -> list:
    """Messages to the host as the library reads them."""
    unpacker = library.Unpacker(on_error="raise")
    unpacker.feed(data)
    return list(unpacker)


def status_of(data: bytes):
    """The one status, or message that carries one, in the data."""
    (message,) = parsed(data)
    return message


# Bytes.


def test_hardware_information_byte_for_byte():
    desk = Desk()
    answer = desk.say(bytes.fromhex("05 00 00 00 50 01"))
    assert answer[:6] == bytes.fromhex("06 00 54 00 81 50")
    assert len(answer) == 6 + 84
    assert answer[6:10] == struct.pack("<l", 26_000_001)
    assert answer[10:18] == b"KST101\0\0"
    assert answer[20:24] == bytes((7, 1, 2, 0))
    (info,) = parsed(answer)
    assert (info.msg, info.serial_number, info.firmware_version, info.nchs) == ("hw_get_info", 26_000_001, [2, 1, 7], 1)


def test_status_byte_for_byte():
    desk = Desk().prepared()
    desk.motors[0].count_from(-2)
    answer = desk.say(bytes.fromhex("80 04 01 00 50 01"))
    assert answer == bytes.fromhex("81 04 0E 00 81 50 01 00 FE FF FF FF 00 00 00 00 00 01 00 80")
    assert desk.say(bytes.fromhex("29 04 01 00 50 01")) == bytes.fromhex("2A 04 06 00 81 50 01 00 00 01 00 80")
    assert desk.say(bytes.fromhex("11 04 01 00 50 01")) == bytes.fromhex("12 04 06 00 81 50 01 00 FE FF FF FF")


def test_channel_enable_byte_for_byte():
    desk = Desk()
    assert desk.say(bytes.fromhex("11 02 01 00 50 01")) == bytes.fromhex("12 02 01 02 01 50")
    assert desk.say(bytes.fromhex("10 02 01 01 50 01")) == b""
    assert desk.say(bytes.fromhex("11 02 01 00 50 01")) == bytes.fromhex("12 02 01 01 01 50")
    assert desk.say(bytes.fromhex("23 02 01 00 50 01")) == b""


def test_an_absolute_move_byte_for_byte():
    desk = Desk().prepared()
    assert desk.say(bytes.fromhex("53 04 06 00 D0 01 01 00 10 27 00 00")) == b""
    done = desk.wait(2)
    assert done == bytes.fromhex("64 04 0E 00 81 50 01 00 10 27 00 00 00 00 00 00 00 01 00 80")
    # The header-only form goes where the parameter says.
    desk.say(bytes.fromhex("50 04 06 00 D0 01 01 00 20 4E 00 00"))
    desk.say(bytes.fromhex("53 04 01 00 50 01"))
    assert status_of(desk.wait(2)).position == 20_000
    assert desk.say(bytes.fromhex("51 04 01 00 50 01")) == bytes.fromhex("52 04 06 00 81 50 01 00 20 4E 00 00")


def test_relative_moves_in_both_forms():
    desk = Desk().prepared()
    desk.say(bytes.fromhex("48 04 06 00 D0 01 01 00 E8 03 00 00"))
    assert status_of(desk.wait(2)).position == 1000
    desk.say(bytes.fromhex("45 04 06 00 D0 01 01 00 18 FC FF FF"))
    desk.say(bytes.fromhex("48 04 01 00 50 01"))
    assert status_of(desk.wait(2)).position == 0


def test_homing_byte_for_byte():
    desk = Desk().prepared()
    desk.say(bytes.fromhex("43 04 01 00 50 01"))
    assert status_of(desk.say(library.mot_req_statusupdate(0x50, 1, 1))).homed is False
    desk.wait(LAG + 0.01)
    moving = status_of(desk.say(library.mot_req_statusupdate(0x50, 1, 1)))
    assert (moving.homing, moving.homed, moving.moving_reverse) == (True, False, True)
    assert desk.wait(60) == bytes.fromhex("44 04 01 00 01 50")
    there = status_of(desk.say(library.mot_req_statusupdate(0x50, 1, 1)))
    assert (there.position, there.homing, there.homed, there.reverse_limit_switch) == (0, False, True, False)


@pytest.mark.parametrize("name", apt.PARAMETERS)
def test_parameters_are_kept_and_told_as_the_library_reads_them(name):
    block = apt.PARAMETERS[name]
    desk = Desk()
    values = [(3 * k + 2) % 7 + 1 for k in range(len(block.fields))]
    data = struct.pack("<H" + block.layout, 1, *values)
    assert desk.say(struct.pack("<HHBB", block.set_id, len(data), 0xD0, 1) + data) == b""
    answer = desk.say(struct.pack("<HBBBB", block.request_id, 1, 0, 0x50, 1))
    assert answer == struct.pack("<HHBB", block.get_id, len(data), 0x81, 0x50) + data
    (message,) = parsed(answer)
    assert list(message)[-len(values) :] == values


def test_what_the_library_sends_is_understood():
    built = {
        Id.SET_VELPARAMS: library.mot_set_velparams(0x50, 1, 1, 0, 2, 3),
        Id.SET_HOMEPARAMS: library.mot_set_homeparams(0x50, 1, 1, 2, 1, 5, 6),
        Id.SET_LIMSWITCHPARAMS: library.mot_set_limswitchparams(0x50, 1, 1, 2, 3, 4, 5, 1),
        Id.SET_GENMOVEPARAMS: library.mot_set_genmoveparams(0x50, 1, 1, -9),
        Id.SET_JOGPARAMS: library.mot_set_jogparams(0x50, 1, 1, 2, 3, 4, 5, 6, 1),
        Id.SET_POWERPARAMS: library.mot_set_powerparams(0x50, 1, 1, 20, 100),
        Id.SET_ACTUATORTYPE: library.mot_set_tssactuatortype(0x50, 1, 0x42),
        Id.SET_CHANENABLE: library.mod_set_chanenablestate(0x50, 1, 1, 1),
        Id.MOVE_STOP: library.mot_move_stop(0x50, 1, 1, 2),
        Id.MOVE_JOG: library.mot_move_jog(0x50, 1, 1, 1),
        Id.SET_POSCOUNTER: library.mot_set_poscounter(0x50, 1, 1, 12),
        Id.REQ_TRIGGER: library.mot_req_trigger(0x50, 1, 1),
        Id.REQ_KSTLOOPPARAMS: library.mot_req_kcubekstloopparams(0x50, 1, 1),
    }
    desk = Desk()
    for identifier, data in built.items():
        assert [message.identifier for message in Decoder().feed(data)] == [identifier]
        replies = parsed(desk.say(data))
        assert not [reply for reply in replies if reply.msg == "hw_richresponse"], identifier
    assert desk.motors[0].actuator == 0x42
    assert desk.motors[0].parameters["homing"] == {"direction": 2, "switch": 1, "velocity": 5, "offset": 6}


def test_every_answer_is_known_to_the_library():
    names = {"GET_", "MOVE_HOMED", "MOVE_COMPLETED", "MOVE_STOPPED", "HW_GET", "RACK_GET", "RICH"}
    answers = [i for i in Id if any(name in i.name for name in names)]
    assert len(answers) >= 11
    assert all(int(i) in id_to_func for i in answers)


@given(st.lists(st.integers(1, 7), max_size=40))
def test_the_decoder_takes_any_pieces(sizes):
    stream = library.mot_move_absolute(0x50, 1, 1, 77) + library.hw_req_info(0x50, 1)
    decoder, messages = Decoder(), []
    for size in [*sizes, len(stream)]:
        messages += decoder.feed(stream[:size])
        stream = stream[size:]
    assert [m.identifier for m in messages] == [Id.MOVE_ABSOLUTE, Id.HW_REQ_INFO]
    assert messages[0].data == struct.pack("<Hl", 1, 77)
    assert decoder.rejected == 0


def test_the_decoder_finds_its_way_after_junk():
    decoder = Decoder()
    assert decoder.feed(b"\xff" * 11) == []
    (message,) = decoder.feed(library.hw_req_info(0x50, 1))
    assert message.identifier == Id.HW_REQ_INFO
    assert decoder.rejected == 11


# Errors.


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        ("FF 7F 01 00 50 01", 1, "unknown message 0x7FFF"),
        ("53 04 02 00 50 01", 2, "no channel 2"),
        ("53 04 04 00 D0 01 01 00 10 27", 3, "wrong length of message 0x0453"),
        ("13 04 04 00 D0 01 01 00 10 27", 3, "wrong length of message 0x0413"),
        ("65 04 01 07 50 01", 3, "wrong parameter of message 0x0465"),
    ],
)
def test_bad_requests_are_answered_with_a_rich_response(request_, code, text):
    desk = Desk().prepared()
    (answer,) = parsed(desk.say(bytes.fromhex(request_)))
    assert answer.msg == "hw_richresponse"
    assert (answer.msg_ident, answer.code) == (int.from_bytes(bytes.fromhex(request_)[:2], "little"), code)
    assert answer.notes.rstrip(b"\0").decode() == text


def test_a_channel_without_current_does_not_move():
    desk = Desk()
    (answer,) = parsed(desk.say(library.mot_move_absolute(0x50, 1, 1, 1000)))
    assert (answer.code, answer.notes.rstrip(b"\0")) == (4, b"the channel is disabled")
    assert desk.wait(3) == b""
    assert desk.motors[0].counter == 0


def test_messages_for_others_are_ignored():
    assert Desk().say(library.hw_req_info(0x11, 1) + library.mot_req_statusupdate(0x21, 1, 1)) == b""


# The rack.


def test_a_rack_has_bays_with_one_channel_each():
    desk = Desk(bays=3, model="BSC203")
    used = [parsed(desk.say(library.rack_req_bayused(0x11, 1, bay)))[0].occupied for bay in range(5)]
    assert used == [True, True, True, False, False]
    (info,) = parsed(desk.say(library.hw_req_info(0x11, 1)))
    assert (info.source, info.nchs) == (0x11, 3)
    assert parsed(desk.say(library.hw_req_info(0x22, 1)))[0].nchs == 1
    for bay, motor in zip((0x21, 0x22, 0x23), desk.motors, strict=True):
        desk.say(library.mod_set_chanenablestate(bay, 1, 1, 1))
        assert motor.enabled
        assert parsed(desk.say(library.mot_req_statusupdate(bay, 1, 1)))[0].source == bay
    (answer,) = parsed(desk.say(library.mot_set_tssactuatortype(0x21, 1, 0x42)))
    assert answer.msg == "hw_richresponse"
    (answer,) = parsed(desk.say(library.mot_req_statusupdate(0x11, 1, 1)))
    assert answer.msg == "hw_richresponse"


# Motion.


def test_a_move_takes_the_time_of_its_trapezoid_in_protocol_units():
    desk = Desk().prepared()
    # 3 mm at 1 mm/s and 1 mm/s^2: one second to speed up, two to go, one to slow down.
    desk.say(library.mot_move_absolute(0x50, 1, 1, 3 * MM))
    assert desk.wait(0.5, 0.001) == b""
    assert desk.motors[0].counter == pytest.approx(0.125 * MM, rel=1e-3)
    assert desk.wait(3.49, 0.001) == b""
    done = status_of(desk.wait(0.02, 0.001))
    assert (done.msg, done.position) == ("mot_move_completed", 3 * MM)
    assert done.moving_forward is False


def test_the_status_lags_a_tenth_of_a_second_behind_a_command():
    desk = Desk().prepared()
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM))
    desk.wait(0.09)
    early = status_of(desk.say(library.mot_req_statusupdate(0x50, 1, 1)))
    assert desk.motors[0].moving
    assert early.moving_forward is False
    desk.wait(0.02)
    assert status_of(desk.say(library.mot_req_statusupdate(0x50, 1, 1))).moving_forward is True


@pytest.mark.parametrize(("mode", "way"), [(1, 0.0), (2, 0.5)])
def test_stop_immediate_and_profiled(mode, way):
    desk = Desk().prepared()
    desk.say(library.mot_move_absolute(0x50, 1, 1, 10 * MM))
    desk.wait(2)
    before = desk.motors[0].counter
    answer = desk.say(library.mot_move_stop(0x50, 1, 1, mode))
    answer += desk.wait(2)
    (stopped,) = parsed(answer)
    assert (stopped.msg, stopped.position) == ("mot_move_stopped", desk.motors[0].counter)
    assert (desk.motors[0].counter - before) / MM == pytest.approx(way, abs=1e-3)
    assert not desk.motors[0].moving
    assert parsed(desk.say(library.mot_move_stop(0x50, 1, 1, mode)))[0].msg == "mot_move_stopped"


def test_a_stop_while_slowing_down_ends_at_the_target_at_the_latest():
    desk = Desk().prepared()
    desk.say(library.mot_move_absolute(0x50, 1, 1, 3 * MM))
    desk.wait(3.5)
    desk.say(library.mot_move_stop(0x50, 1, 1, 2))
    (stopped,) = parsed(desk.wait(2))
    assert stopped.position <= 3 * MM
    assert stopped.position == pytest.approx(3 * MM, rel=1e-3)


def test_limit_switches_end_a_motion():
    desk = Desk().prepared()
    desk.say(library.mot_move_velocity(0x50, 1, 1, 2))
    (stopped,) = parsed(desk.wait(10))
    assert stopped.msg == "mot_move_stopped"
    assert stopped.reverse_limit_switch
    assert not stopped.forward_limit_switch
    assert desk.carriage.true_displacement()[0] == pytest.approx(-1e-4, abs=1e-9)
    desk.say(library.mot_move_relative(0x50, 1, 1, -1000))
    assert parsed(desk.wait(1))[0].msg == "mot_move_stopped"
    desk.say(library.mot_move_relative(0x50, 1, 1, 1000))
    off = parsed(desk.wait(1))[0]
    assert (off.msg, off.reverse_limit_switch) == ("mot_move_completed", False)
    desk.say(library.mot_move_velocity(0x50, 1, 1, 1))
    (stopped,) = parsed(desk.wait(60))
    assert stopped.forward_limit_switch
    assert desk.carriage.true_displacement()[0] == pytest.approx(25.1e-3, abs=1e-9)


def test_a_switch_that_is_ignored_stops_nothing():
    desk = Desk().prepared()
    desk.say(library.mot_set_limswitchparams(0x50, 1, 1, 1, 1, 0, 0, 1))
    desk.say(library.mot_move_absolute(0x50, 1, 1, -3 * MM))
    assert parsed(desk.wait(10))[0].position == -3 * MM


def test_homing_upwards():
    desk = Desk().prepared()
    desk.say(library.mot_set_homeparams(0x50, 1, 1, 1, 4, round(10 * V * 53.68), 1000))
    desk.say(library.mot_move_home(0x50, 1, 1))
    assert parsed(desk.wait(60))[0].msg == "mot_move_homed"
    assert desk.motors[0].counter == 0
    assert desk.carriage.zero[0] == SWITCHES[1] - 1000


def test_the_controllers_backlash_correction_comes_up_from_below():
    desk = Desk().prepared()
    desk.say(library.mot_set_genmoveparams(0x50, 1, 1, 10_000))
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM))
    assert parsed(desk.wait(4))[0].position == MM
    lowest = [MM]
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM - 5000))
    for _ in range(300):
        desk.wait(0.01)
        lowest.append(desk.motors[0].counter)
    assert min(lowest) == pytest.approx(MM - 15_000, abs=50)
    assert lowest[-1] == MM - 5000


def test_jogs_go_one_step_each():
    desk = Desk().prepared()
    desk.say(library.mot_set_jogparams(0x50, 1, 1, 2, 1234, 0, 24_032, round(V * 53.68), 2))
    for direction, place in ((1, 1234), (1, 2468), (2, 1234)):
        desk.say(library.mot_move_jog(0x50, 1, 1, direction))
        assert parsed(desk.wait(1))[0].position == place


def test_a_velocity_of_zero_never_arrives():
    desk = Desk().prepared()
    desk.say(library.mot_set_velparams(0x50, 1, 1, 0, 24_032, 0))
    desk.say(library.mot_move_absolute(0x50, 1, 1, 1000))
    assert desk.wait(5) == b""
    assert desk.motors[0].moving
    assert parsed(desk.say(library.mot_move_stop(0x50, 1, 1, 2)))[0].msg == "mot_move_stopped"


def test_a_new_command_replaces_the_motion_in_progress():
    desk = Desk().prepared()
    desk.say(library.mot_move_absolute(0x50, 1, 1, 10 * MM))
    desk.wait(2)
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM))
    (done,) = parsed(desk.wait(5))
    assert (done.msg, done.position) == ("mot_move_completed", MM)


def test_streamed_updates_come_ten_times_a_second_until_nobody_acknowledges_them():
    desk = Desk()
    desk.say(library.hw_start_updatemsgs(0x50, 1))
    assert len(parsed(desk.wait(1.005))) == 10
    desk.say(library.mot_ack_dcstatusupdate(0x50, 1))
    assert len(parsed(desk.wait(10))) == 50
    desk.say(library.hw_start_updatemsgs(0x50, 1))
    desk.wait(0.2)
    desk.say(library.hw_stop_updatemsgs(0x50, 1))
    assert desk.wait(1) == b""


def test_homing_pauses_at_the_switch_with_the_bit_of_homing_alone():
    desk = Desk().prepared()
    motor = Motor(desk.carriage, 0, *SWITCHES, LAG, switch_pause_s=1.5)
    motor.enabled = True
    motor.home(0.0)
    began = motor.due
    assert motor.advance(began + 0.1) == []
    pause = motor.due
    assert pause - began == pytest.approx(1.5)
    before = motor.counter
    assert motor.advance(began + 1.4) == []
    assert motor.counter == before
    bits = motor.bits(began + 1.4)
    assert StatusBit.HOMING in bits
    assert not bits & (StatusBit.MOVING_FORWARD | StatusBit.MOVING_REVERSE)
    assert [str(ended) for ended in motor.advance(began + 60)] == ["homed"]
    assert motor.counter == 0
    # A stop ends it there too.
    motor.home(100.0)
    motor.advance(motor.due + 0.1)
    assert [str(ended) for ended in motor.stop(motor.due - 0.1, immediate=False)] == ["stopped"]
    assert not motor.homed


def test_a_command_that_is_ignored_changes_nothing_and_is_the_only_one():
    desk = Desk().prepared()
    for command in (library.mot_move_home(0x50, 1, 1), library.mot_move_absolute(0x50, 1, 1, MM)):
        desk.motors[0].homed = True
        desk.motors[0].trouble = Trouble(ignores=True)
        assert desk.say(command) == b""
        assert desk.wait(0.5) == b""
        assert (desk.motors[0].counter, desk.motors[0].homed, desk.motors[0].moving) == (0, True, False)
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM))
    assert status_of(desk.wait(5)).position == MM


def test_troubles_of_the_motor():
    desk = Desk().prepared()
    motor = desk.motors[0]
    motor.trouble = Trouble(stalls=True)
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM))
    assert desk.wait(30) == b""
    assert motor.counter == pytest.approx(MM / 2, rel=1e-3)
    assert StatusBit.MOVING_FORWARD in motor.bits(desk.now)
    desk.say(library.mot_move_stop(0x50, 1, 1, 2))
    motor.trouble = Trouble(misses=-7)
    desk.say(library.mot_move_absolute(0x50, 1, 1, MM))
    assert status_of(desk.wait(5)).position == MM - 7
    motor.trouble = Trouble(switch=True)
    desk.say(library.mot_move_absolute(0x50, 1, 1, 3 * MM - 7))
    stopped = status_of(desk.wait(5))
    assert (stopped.msg, stopped.forward_limit_switch, stopped.position) == ("mot_move_stopped", True, 2 * MM - 7)


# The time that messages take.


def status_requests(count):
    return [apt.Message(Id.REQ_STATUSUPDATE, (1, 0), None, 0x50)] * count


def test_a_controller_takes_one_message_after_the_other():
    port = Port(Path("nowhere"), answer_s=0.015, byte_s=1e-4)
    port.arrive(status_requests(3), now=10.0)
    taken = []
    for tick in range(100):
        now = 10.0 + 1e-3 * tick
        while (turn := port.turn(now)) is not None:
            taken.append((tick, turn[0]))
    # On the line for 0.6 ms, then 15 ms each, each behind those that had come before.
    assert taken == [(1, 0), (16, 1), (31, 2)]
    assert port.due() is None


def test_answers_wait_for_the_controller_and_for_the_line(monkeypatch):
    port = Port(Path("nowhere"), answer_s=0.015, byte_s=1e-3)
    port.master = 0
    written = []
    monkeypatch.setattr(port, "_write", written.append)
    port.arrive(status_requests(1), now=0.0)
    assert port.due() == pytest.approx(0.006)
    assert port.turn(0.006) is not None
    port.send(b"answer" + bytes(14), 0.006)
    port.send(b"news", 0.007)
    for now, said in ((0.040, 0), (0.0411, 1), (0.0449, 1), (0.0451, 2)):
        port.flush(now)
        assert len(written) == said
    port.delay_s = 0.2
    port.send(b"late", 0.1)
    port.heal()
    port.send(b"later", 0.2)
    assert port.due() == pytest.approx(0.304)


def test_a_swamped_controller_obeys_a_stop_in_its_turn():
    with AptWire(Carriage(BENCH, 0), answer_s=0.02) as wire, opened(wire.ports[0]) as handle:
        os.write(handle, STATUS * 10 + library.mot_move_stop(0x50, 1, 1, 2))
        assert len(answer(handle, 220)) == 220
        (stop,) = wire.messages(Id.MOVE_STOP)
        assert stop.ahead >= 9
        assert stop.time - wire.messages(Id.REQ_STATUSUPDATE)[0].time >= 0.19


# The port.


@contextlib.contextmanager
def opened(path):
    handle = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        yield handle
    finally:
        os.close(handle)


def answer(handle: int, size: int, timeout_s: float = 30.0) -> bytes:
    """`size` bytes from a port, or what came in the time."""
    data, deadline = b"", time.monotonic() + timeout_s
    while len(data) < size and (left := deadline - time.monotonic()) > 0:
        if select.select([handle], [], [], left)[0]:
            piece = os.read(handle, size - len(data))
            if not piece:
                raise EOFError("hung up")
            data += piece
    return data


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files, which needs /proc")
def test_the_ports_answer_and_leave_nothing_behind():
    threads = set(threading.enumerate())
    files = len(list(Path("/proc/self/fd").iterdir()))
    for controller, count in (("kst101", 2), ("bsc203", 1)):
        with AptWire(Carriage(BENCH, 0), controller) as wire:
            assert len(wire.ports) == count
            assert set(threading.enumerate()) - threads == {wire._thread}
            with opened(wire.ports[-1]) as handle:
                destination = b"\x50\x01" if controller == "kst101" else b"\x11\x01"
                os.write(handle, b"\x05\x00\x00\x00" + destination)
                assert controller.upper().encode() in answer(handle, 90)
        wire.close()
        assert not Path(wire.ports[0]).parent.exists()
    assert set(threading.enumerate()) == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_the_motors_turn_faster_by_the_factor():
    with AptWire(Carriage(BENCH, 0), speed=100) as wire, opened(wire.ports[0]) as handle:
        os.write(handle, bytes.fromhex("10 02 01 01 50 01") + library.mot_move_absolute(0x50, 1, 1, 10 * MM))
        # 10 mm at 0.1 mm/s would take a hundred seconds, and the correction is for downward moves only.
        assert len(answer(handle, 20, 60.0)) == 20
        assert wire.motor(0).counter == 10 * MM


STATUS = bytes.fromhex("80 04 01 00 50 01")


def test_faults_of_the_line_and_their_end():
    with AptWire(Carriage(BENCH, 0)) as wire, opened(wire.ports[0]) as handle:
        os.write(handle, STATUS)
        good = answer(handle, 20)
        assert good[:2] == b"\x81\x04"
        wire.inject(WireFault(FaultKind.GARBAGE))
        os.write(handle, STATUS)
        assert answer(handle, 20) != good
        wire.heal()
        wire.inject(WireFault(FaultKind.TRUNCATED))
        os.write(handle, STATUS * 2)
        assert answer(handle, 30) == good[:10] + good
        wire.inject(WireFault(FaultKind.DELAYED, delay_s=0.1))
        begin = time.monotonic()
        os.write(handle, STATUS)
        assert answer(handle, 20) == good
        assert time.monotonic() - begin >= 0.1  # a lower bound, which a busy machine keeps
        wire.heal()
        wire.inject(WireFault(FaultKind.SILENT))
        os.write(handle, STATUS)
        assert answer(handle, 20, 0.1) == b""


def test_a_message_brings_a_fault_about_at_its_count_and_later():
    fault = WireFault(FaultKind.UNPLUGGED, axis=1, message=Id.REQ_STATUSUPDATE, count=3, after_s=0.05)
    with AptWire(Carriage(BENCH, 0), faults=(fault,)) as wire, opened(wire.ports[1]) as handle:
        for _ in range(3):
            os.write(handle, STATUS)
            assert len(answer(handle, 20)) == 20
        with pytest.raises((EOFError, OSError), match=r"hung up|Input/output"):
            answer(handle, 1)
        assert not Path(wire.ports[1]).exists()
        assert Path(wire.ports[0]).exists()
        wire.plug()
        with opened(wire.ports[1]) as again:
            os.write(again, STATUS)
            assert len(answer(again, 20)) == 20


def test_a_motor_goes_on_when_its_controller_is_unplugged():
    with AptWire(Carriage(BENCH, 0), speed=100) as wire, opened(wire.ports[0]) as handle:
        os.write(handle, bytes.fromhex("10 02 01 01 50 01") + library.mot_move_absolute(0x50, 1, 1, MM // 2))
        deadline = time.monotonic() + 30
        while not wire.motor(0).moving:
            assert time.monotonic() < deadline
        wire.inject(WireFault(FaultKind.UNPLUGGED))
        while wire.motor(0).counter != MM // 2:
            assert time.monotonic() < deadline


def test_an_unread_port_loses_messages_and_blocks_nothing():
    with AptWire(Carriage(BENCH, 0)) as wire, opened(wire.ports[0]) as deaf, opened(wire.ports[1]) as handle:
        for _ in range(400):
            os.write(deaf, STATUS)
        os.write(handle, STATUS)
        assert len(answer(handle, 20)) == 20


def test_what_was_heard_is_kept_with_its_axis():
    with AptWire(Carriage(BENCH, 0), "bsc203", channels=(2, 3)) as wire, opened(wire.ports[0]) as handle:
        for bay in (0x21, 0x22, 0x23):
            os.write(handle, library.mot_req_statusupdate(bay, 1, 1))
        answer(handle, 60)
        assert [heard.axis for heard in wire.messages(Id.REQ_STATUSUPDATE)] == [None, 0, 1]
        wire.report(1, 9, "too hot")
        (report,) = parsed(answer(handle, 74))
        assert (report.source, report.code) == (0x23, 9)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_motors_turn_at_a_finite_speed(speed):
    with pytest.raises(ValueError, match="is not a finite number above 0"):
        AptWire(Carriage(BENCH, 0), speed=speed)
