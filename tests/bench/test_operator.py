"""Moving, asking and looking: what a person at the bench meets."""

import io
import json
import os
import signal
from dataclasses import replace

import pytest

from app.bench.align import STEP_M, STEPS, align
from app.bench.environment import Computer, gpus, hints
from app.bench.jog import jog
from app.bench.motion import move_stage, named_place, parse_place, planned_moves
from app.bench.prompt import Terminal
from app.check import check_profile
from app.cli import app
from app.errors import UsageError, run_guarded
from app.profile import load_profile
from drivers.base import (
    Cancelled,
    Light,
    LightState,
    LimitError,
    NotReadyError,
    OperatorNeeded,
    StagePosition,
)
from drivers.manual import ManualLight, nobody
from simulators.faults import Fault, FaultyCamera, FaultyStage
from tests.bench.rigs import bench, changed

TINY = load_profile("tiny")


def call(capsys, *arguments):
    code = run_guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- Moving ----


@pytest.mark.parametrize("text", ["12.5mm,20mm", "0.0125,0.02", " 12500um , 20 mm ", "1.25e-2,2e-2m"])
def test_places_may_be_written_with_units(text):
    assert parse_place(text).as_tuple() == pytest.approx((12.5e-3, 20e-3))


@pytest.mark.parametrize("text", ["parc", "1", "1,2,3", "1 inch,2", "", "a,b"])
def test_other_places_are_one_line(text):
    with pytest.raises(UsageError, match="park, load, unload, home"):
        parse_place(text)


def test_named_places_are_those_of_the_profile():
    assert named_place("park", TINY.stage).as_tuple() == TINY.stage.park_m
    assert named_place("load", TINY.stage).as_tuple() == TINY.stage.park_m
    own = changed("tiny", stage__load_m=(1e-3, 2e-3)).stage
    assert named_place("unload", own).as_tuple() == (1e-3, 2e-3)


def test_a_move_goes_where_it_was_told_and_nowhere_else():
    with bench(TINY) as session:
        with pytest.raises(NotReadyError, match="home it first"):
            move_stage(session, "park", home_first=False)
        with pytest.raises(LimitError):
            move_stage(session, "30mm,1mm", home_first=True)
        assert not session.devices.stage.homed
        values = move_stage(session, "park", home_first=True)
        assert (values["y_m"], values["x_m"]) == pytest.approx(TINY.stage.park_m, abs=1e-8)
        assert move_stage(session, "home", home_first=False)["homed"]


def test_stopping_a_move_stops_the_stage():
    with bench(TINY) as session:
        move_stage(session, "home", home_first=False)
        asked = []
        position = session.devices.stage.position

        def counted():
            asked.append(1)
            session.interrupt.wanted = len(asked) > 40
            return position()

        session.devices.stage.position = counted
        with pytest.raises(Cancelled):
            move_stage(session, "24mm,24mm", home_first=False)
        session.devices.stage.position = position
        assert 0 < position().y < 20e-3


def test_jogging_obeys_typed_orders_only():
    views, complaints = [], []
    with bench(TINY, stream=13) as session:
        with pytest.raises(NotReadyError, match="home it first"):
            jog(session, ["y 10um"], views.append, complaints.append)
        move_stage(session, "12.5mm,12.5mm", home_first=True)
        orders = ["", "y 50um", "x -0.1mm", "what", "y 5mm", "x 1m", "q", "y 1mm"]
        end = jog(session, orders, views.append, complaints.append)
        assert end.as_tuple() == pytest.approx((12.55e-3, 12.4e-3), abs=1e-8)
        move_stage(session, "24mm,24mm", home_first=False)
        jog(session, ["y 0.9mm"], views.append, complaints.append)
    assert len(views) == 4 + 1
    assert len(complaints) == 4
    assert views[1].changed < 0.1 < views[2].changed
    assert all(view.line() for view in views)


def test_without_a_person_or_yes_nothing_moves(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = call(capsys, "move", "park", "--profile", "tiny", "--home")
    assert (code, out) == (2, "")
    assert "not a terminal" in err.splitlines()[-1]
    code, out, _ = call(capsys, "move", "park", "--profile", "tiny", "--home", "--yes", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["x_m"] == pytest.approx(20e-3)


def test_the_moves_of_an_alignment_are_listed_before():
    with bench(TINY) as session:
        text = "\n".join(planned_moves(session, StagePosition(12.5e-3, 12.5e-3)))
        assert "home both axes" in text
        assert "x 20.0000 mm" in text
        with pytest.raises(LimitError):
            planned_moves(session, StagePosition(24.4e-3, 12.5e-3))


def test_an_alignment_leaves_room_for_the_controllers_backlash_correction():
    stage = {"stage__backlash_correction_m": 2e-4}
    with bench(TINY, stream=13) as session:
        place = StagePosition(0.5e-3 + STEPS * STEP_M + TINY.stage.approach_m + 1e-4, 12.5e-3)
        # A simulated stage has no controller of its own.
        assert planned_moves(replace(session, profile=changed("tiny", **stage)), place)
        real = replace(session, profile=changed("tiny", stage__driver="emulated", **stage))
        for begin in (lambda: planned_moves(real, place), lambda: align(real, place, 0.0)):
            with pytest.raises(LimitError, match=r"y position 0\.0004 m is outside"):
                begin()
        assert session.devices.stage.position().as_tuple() == (0.0, 0.0)


def test_orders_that_are_no_numbers_are_complained_of():
    complaints = []
    with bench(TINY, stream=13) as session:
        move_stage(session, "12.5mm,12.5mm", home_first=True)
        jog(session, ["y 0.5.5mm", "x .um", "y -.mm"], lambda view: None, complaints.append)
    assert len(complaints) == 3
    assert "0.5.5 is not a number" in complaints[0]


def test_at_a_limit_one_can_still_jog_along_it():
    with bench(TINY, stream=13) as session:
        stage = session.devices.stage
        move_stage(session, "24.5mm,12.5mm", home_first=True)
        # As a controller that rounds to the nearest microstep counts there.
        stage.carriage.turn(0, round(24.5e-3 / stage.info.step_m))
        assert not stage.info.y_m.contains(stage.position().y)
        end = jog(session, ["x 10um"], lambda view: None, pytest.fail)
        assert end.as_tuple() == pytest.approx((24.5e-3, 12.51e-3), abs=1e-9)


def test_a_stage_outside_its_limits_is_told_how_to_come_back():
    complaints = []
    with bench(TINY, stream=13) as session:
        move_stage(session, "home", home_first=False)
        jog(session, ["y 0.6mm"], lambda view: None, complaints.append)
        assert session.devices.stage.position().as_tuple() == pytest.approx((0, 0))
    assert "move Y,X" in complaints[0]


def test_the_light_of_a_view_does_not_depend_on_the_gain():
    light = []
    for gain_db in (0.0, 24.0):
        with bench(changed("tiny", camera__gain_db=gain_db)) as session:
            session.devices.stage.home()
            session.devices.stage.move_to(StagePosition(12.5e-3, 12.5e-3))
            jog(session, [], lambda view: light.append(view.light), pytest.fail)
    assert light[1] == pytest.approx(light[0], rel=0.05)


def test_jogging_after_homing_begins_where_orders_can_be_obeyed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y 50um\nq\n"))
    figure = tmp_path / "jog.png"
    code, out, err = call(capsys, "jog", "--profile", "tiny", "--home", "--yes", "--figure", figure, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["y_m"] == pytest.approx(12.55e-3)
    assert "moves: to y 12.5000 mm, x 12.5000 mm" in err


def test_an_interrupt_at_the_prompt_of_jog_ends_it(capsys, tmp_path, monkeypatch):
    class Interrupting(Tty):
        def readline(self, *_):
            os.kill(os.getpid(), signal.SIGINT)
            return "y 50um\n"

    monkeypatch.setattr("sys.stdin", Interrupting())
    arguments = ("jog", "--profile", "tiny", "--home", "--yes", "--figure", tmp_path / "jog.png", "--json")
    code, out, err = call(capsys, *arguments)
    assert code == 130
    assert json.loads(out.splitlines()[-1]) == {"outcome": "aborted"}
    assert err.splitlines()[-1].startswith("interrupted: jog:")


def test_stop_stops_the_stage_and_moves_nothing(capsys, monkeypatch):
    from simulators.stage import SimulatedStage

    stops = []
    stop = SimulatedStage.stop
    monkeypatch.setattr(SimulatedStage, "stop", lambda stage: (stops.append(stage.homed), stop(stage))[1])
    code, out, _ = call(capsys, "stop", "--profile", "tiny", "--json")
    assert code == 0
    assert stops[0] is False
    assert json.loads(out.splitlines()[-1])["homed"] is False


# ---- Stopped, and outputs that cannot be ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["move", "darks", "characterise", "align"])
def test_every_command_ends_with_128_and_the_signal(capsys, tmp_path, monkeypatch, command, number):
    from simulators.camera import SimulatedCamera
    from simulators.stage import SimulatedStage

    stopped = []
    stop = SimulatedStage.stop
    monkeypatch.setattr(SimulatedStage, "stop", lambda stage: (stopped.append(1), stop(stage))[1])
    owner, method = (SimulatedStage, "home") if command == "move" else (SimulatedCamera, "acquire")
    act = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda device, cancel: (os.kill(os.getpid(), number), act(device, cancel))[1])
    own = {
        "move": ("park", "--home", "--yes"),
        "darks": ("--out", tmp_path / "d.h5"),
        "characterise": ("--out", tmp_path / "c.toml"),
        "align": ("--yes", "--figure", tmp_path / "a.png"),
    }[command]
    code, out, err = call(capsys, command, *own, "--profile", "tiny", "--json")
    assert code == 128 + number
    assert json.loads(out.splitlines()[-1]) == {"outcome": "aborted"}
    assert err.splitlines()[-1].startswith("interrupted: ")
    assert stopped
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.parametrize(
    ("command", "name", "word"),
    [
        ("darks", "absent/d.h5", "does not exist"),
        ("darks", "d.png", "must end in .h5"),
        ("characterise", "absent/c.toml", "does not exist"),
        ("characterise", "c.h5", "must end in .toml"),
    ],
)
def test_outputs_are_checked_before_anything_is_recorded(capsys, tmp_path, monkeypatch, command, name, word):
    from simulators.camera import SimulatedCamera

    monkeypatch.setattr(SimulatedCamera, "acquire", lambda *_: pytest.fail("a frame was taken"))
    code, out, err = call(capsys, command, "--out", tmp_path / name, "--profile", "tiny")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert word in err
    assert list(tmp_path.iterdir()) == []


# ---- Asking ----


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("typed", "answer"), [("\n", True), ("y\n", True), ("YES\n", True), ("n\n", False), ("what\nno\n", False)]
)
def test_answers(typed, answer):
    asked = io.StringIO()
    assert Terminal(Tty(typed), asked).light("block the beam") is answer
    assert "light: please block the beam" in asked.getvalue()


@pytest.mark.parametrize("answers", [io.StringIO("y\n"), Tty("")])
def test_nobody_there(answers):
    with pytest.raises(OperatorNeeded):
        Terminal(answers, io.StringIO()).light("block the beam")


def test_an_interrupt_during_a_question_reaches_the_one_who_listens():
    heard = []

    class Interrupting(Tty):
        def readline(self, *_):
            os.kill(os.getpid(), signal.SIGINT)
            return "y\n"

    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(Cancelled, match="interrupted"):
            Terminal(Interrupting(), io.StringIO()).light("block the beam")
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_manual_light_is_believed_only_when_confirmed():
    answers, changes = [True, False, True], []
    light = ManualLight(lambda request: answers.pop(0), changes.append)
    assert isinstance(light, Light)
    with pytest.raises(NotReadyError):
        light.block()
    light.open()
    assert light.state is LightState.UNKNOWN
    light.block()
    light.block()  # not asked again
    assert light.state is LightState.BLOCKED
    with pytest.raises(OperatorNeeded, match="not confirmed"):
        light.unblock()
    assert light.state is LightState.UNKNOWN
    light.unblock()
    assert changes == [LightState.BLOCKED, LightState.OPEN]
    light.close()
    assert light.state is LightState.UNKNOWN
    alone = ManualLight(nobody)
    alone.open()
    with pytest.raises(OperatorNeeded, match="nobody is there"):
        alone.block()


def test_a_scan_under_a_manual_light_needs_a_person(capsys, tmp_path, monkeypatch):
    from app.profile import PROFILES

    head, tail = (PROFILES / "tiny.toml").read_text().split("[light]")
    path = tmp_path / "manual.toml"
    path.write_text(f"{head}[light]{tail.replace('simulated', 'manual', 1)}")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = call(capsys, "scan", "--profile", path, "--out", tmp_path / "run.h5")
    assert code == 2
    assert "error: preflight: light: a person has to block the beam" in err
    assert "nothing was moved or written" in err
    assert not (tmp_path / "run.h5").exists()
    assert call(capsys, "check", "--profile", path)[0] == 0
    monkeypatch.setattr("sys.stdin", Tty("\n\n"))
    code, out, _ = call(capsys, "scan", "--profile", path, "--out", tmp_path / "run.h5", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["outcome"] == "completed"


def test_an_unknown_light_does_not_hide_an_impossible_plan(tmp_path):
    profile = changed("tiny", light__driver="manual", scan__calibration_exposure_s=20.0)
    found = check_profile(profile)
    assert any("exposure 20 s" in finding.message for finding in found.errors)


# ---- Looking ----


def test_check_tells_what_is_connected(capsys):
    code, out, _ = call(capsys, "check", "--profile", "tiny")
    assert code == 0
    for words in ("serial: sim-0", "homed: no", "room for", "characterisation: none", "exposure range: 1e-06 .. 10 s"):
        assert words in out
    values = json.loads(call(capsys, "check", "--profile", "tiny", "--json")[1].splitlines()[-1])
    assert values["devices"]["stage"]["model"] == "simulated stage"
    assert values["runs_that_fit"] > 0


def test_a_device_that_fails_does_not_hide_the_others(capsys, monkeypatch):
    from app import check as module
    from app.devices import open_devices
    from drivers.base import ConnectionLost

    def broken(*arguments, **options):
        devices = open_devices(*arguments, **options)
        camera = FaultyCamera(devices.camera, Fault("open", 1, ConnectionLost("camera", "24012345 is not there; plug")))
        stage = FaultyStage(devices.stage, Fault("describe", 1, ConnectionLost("stage", "silent for 1 s; look")))
        return replace(devices, camera=camera, stage=stage)

    monkeypatch.setattr(module, "open_devices", broken)
    code, out, err = call(capsys, "check", "--profile", "tiny", "--json")
    assert code == 2
    assert err.splitlines() == ["error: camera: 24012345 is not there; plug", "error: stage: silent for 1 s; look"]
    devices = json.loads(out.splitlines()[-1])["devices"]
    assert devices["light"]["model"] == "simulated beam"
    assert "24012345" in devices["camera"]["error"]


def test_hints_for_real_devices_on_linux(tmp_path):
    real = changed("tiny").model_copy(
        update={
            "camera": TINY.camera.model_copy(update={"driver": "basler"}),
            "stage": TINY.stage.model_copy(update={"driver": "thorlabs"}),
        }
    )
    rules, usbfs = tmp_path / "rules.d", tmp_path / "usbfs"
    rules.mkdir()
    usbfs.write_text("16\n")
    computer = Computer((rules, tmp_path / "none"), usbfs, tmp_path / "nvidia", "linux", frozenset({"users"}))
    found = hints(real, computer)
    assert [line.split(":")[0] for line in found] == ["camera", "camera", "stage"]
    assert "2676" in found[0]
    assert "16 MB" in found[1]
    assert "dialout" in found[2]
    assert all("\n" not in line for line in found)
    assert hints(TINY, computer) == []
    (rules / "69-basler-cameras.rules").write_text('SUBSYSTEM=="usb", ATTRS{idVendor}=="2676", MODE:="0666"\n')
    # To the kernel 0 is no limit.
    for enough in ("1000", "0\n"):
        usbfs.write_text(enough)
        assert hints(real, Computer((rules,), usbfs, tmp_path, "linux", frozenset({"dialout"}))) == []
    assert hints(real, Computer((tmp_path,), usbfs, tmp_path, "win32")) == []


def test_gpus_are_found_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "0000:01:00.0").mkdir()
    assert gpus(Computer(nvidia=tmp_path)) == ["NVIDIA GPU 0000:01:00.0"]
    assert gpus(Computer(nvidia=tmp_path / "none")) == []


def test_the_operators_commands_leave_torch_alone(tmp_path):
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from app.cli import app\n"
        f"out = {str(tmp_path)!r}\n"
        "for line in ('check', f'darks --out {out}/d.h5 --frames 4', f'characterise --out {out}/c.toml', \n"
        "             'move park --yes --home'):\n"
        "    app([*line.split(), '--profile', 'tiny', '--json'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"d.h5", "d.png", "c.toml", "c.png"}
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(last) == 4
