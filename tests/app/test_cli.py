"""The command line as a person and a script meet it: results on stdout, one line per mistake, nothing moved."""

import json
import os
import re
import signal
import subprocess
import sys
from typing import Annotated, get_origin, get_type_hints

import h5py
import pytest

from app.cli import app
from app.errors import known_message, run_guarded
from app.profile import PROFILES
from app.reporting import finite
from tests.files.compare import assert_same_measurement


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program."""
    code = run_guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def result(out: str) -> dict:
    """The JSON object on the last line."""
    return json.loads(out.splitlines()[-1], parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


@pytest.fixture
def changed_profile(tmp_path):
    """Make a changed copy of `tiny` and return its path."""

    def make(old: str, new: str):
        text = (PROFILES / "tiny.toml").read_text()
        assert old in text
        path = tmp_path / "changed.toml"
        path.write_text(text.replace(old, new))
        return path

    return make


def test_check_tells_what_the_papers_scan_is(capsys):
    code, out, _ = call(capsys, "check", "--profile", "quick", "--json")
    assert code == 0
    values = result(out)
    assert values["positions"] == 96
    assert values["evaluation_positions"] == 16
    assert values["overlap_linear_mean"] == pytest.approx(0.80, abs=1e-6)
    assert 0.55 < values["evaluation_overlap_linear_mean"] < 0.62
    assert values["travel_m"] < 11e-3
    assert values["frames"] == 376
    assert values["bytes"] > 100e6
    assert values["dose"] > 96 * 1e7
    assert values["duration_s"] > 100


def test_check_without_json_is_for_people(capsys):
    code, out, _ = call(capsys, "check", "--profile", "tiny")
    assert code == 0
    assert "overlap_linear_mean: 0.6\n" in out


def test_scan_abort_and_resume(capsys, tmp_path):
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    code, out, err = call(capsys, "scan", "--profile", "tiny", "--seed", "3", "--out", whole, "--json")
    assert code == 0
    values = result(out)
    assert values["outcome"] == "completed"
    assert values["run"] == str(whole)
    assert values["frames"] == 1 + 9 + 2 * 3
    assert values["seconds"] >= 0
    assert re.search(r"calibration: frame \d+ of \d+", err)
    code, out, _ = call(
        capsys, "scan", "--profile", "tiny", "--seed", "3", "--out", parts, "--abort-after", "4", "--json"
    )
    assert code == 130
    assert result(out)["outcome"] == "aborted"
    code, out, _ = call(capsys, "scan", "--resume", parts, "--json")
    assert result(out)["outcome"] == "completed"
    assert_same_measurement(parts, whole, other_visits=True)
    before = parts.read_bytes()
    code, out, _ = call(capsys, "scan", "--resume", parts, "--json")
    assert (code, result(out)["outcome"]) == (0, "completed")
    assert parts.read_bytes() == before


def test_the_object_and_the_seed_make_the_difference(capsys, tmp_path):
    for name, extra in {"a": (), "b": ("--object", "digit:7:2"), "c": ("--seed", "1")}.items():
        assert call(capsys, "scan", "--profile", "tiny", "--out", tmp_path / f"{name}.h5", *extra)[0] == 0
    frames = {}
    for name in "abc":
        with h5py.File(tmp_path / f"{name}.h5") as file:
            frames[name] = file["ptychogram"][...]
    assert (frames["a"] != frames["b"]).mean() > 0.1
    assert (frames["a"] != frames["c"]).mean() > 0.5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("check", "--profile", "nonsense"), "nonsense"),
        (("check", "--profile", "none.toml"), "none.toml"),
        (
            (
                "check",
                "--bogus",
            ),
            "--bogus",
        ),
        (("unheard",), "unheard"),
        (("check", "--seed", "-1"), "seed"),
        (("check", "--profile", "tiny", "--object", "digit:x"), "digit:x"),
        (("check", "--profile", "tiny", "--object", "digit:12"), "12"),
        (("check", "--profile", "tiny", "--object", "no-such.png"), "no-such.png"),
        (("check", "--profile", "tiny", "--object", "idx:none:3"), "none"),
        (("scan", "--profile", "tiny"), "--out"),
        (("scan", "--profile", "tiny", "--out", "absent-folder/run.h5"), "absent-folder"),
        (("scan", "--profile", "tiny", "--out", "run.png"), ".h5"),
        (("scan", "--resume", "absent.h5"), "absent.h5"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(capsys, *arguments), word)
    assert list(tmp_path.iterdir()) == []


def assert_refused(answer, *words: str) -> None:
    code, out, err = answer
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("scan: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("positions = 9", "positions = 9\nspeed = 3", ("speed", "remove it")),
        ("overlap = 0.60", "overlap = 1.5", ("scan.overlap", "1.5")),
        ("calibration_exposure_s = 0.3", "calibration_exposure_s = 20", ("exposure 20 s", "10 s")),
        ("centre_m = [12.5e-3, 12.5e-3]", "centre_m = [12.5e-3, 24.4e-3]", ("x target", "0.0245 m")),
        ("park_m = [12.5e-3, 20.0e-3]", "park_m = [12.5e-3, 26.0e-3]", ("0.026 m",)),
        ("photons_per_second = 3.3333333e6", "photons_per_second = 3e10", ("electrons",)),
        ("name =", "name", ("not valid TOML",)),
        ("limits_y_m = [0.5e-3, 24.5e-3]", "limits_y_m = [24.5e-3, 0.5e-3]", ("limits_y_m", "do not ascend")),
        ("limits_x_m = [0.5e-3, 24.5e-3]", "limits_x_m = [0.5e-3, 26e-3]", ("limits_x_m", "travel 0 .. 0.025 m")),
        ("centre_m = [12.5e-3, 12.5e-3]", "centre_m = [0.1e-3, 12.5e-3]", ("centre_m has y 0.0001 m", "limits_y_m")),
    ],
)
def test_bad_profiles_move_and_write_nothing(capsys, tmp_path, changed_profile, old, new, words):
    path, out = changed_profile(old, new), tmp_path / "run.h5"
    assert_refused(call(capsys, "check", "--profile", path, "--json"), *words)
    assert_refused(call(capsys, "scan", "--profile", path, "--out", out, "--json"), *words)
    assert [p.name for p in tmp_path.iterdir()] == ["changed.toml"]


def test_files_that_are_not_runs_are_refused_and_left_alone(capsys, tmp_path):
    run, foreign, stub = tmp_path / "run.h5", tmp_path / "foreign.h5", tmp_path / "stub.h5"
    assert call(capsys, "scan", "--profile", "tiny", "--out", run)[0] == 0
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    stub.write_bytes(run.read_bytes()[:3000])
    for path in (run, foreign, stub):
        before = path.read_bytes()
        if path != run:
            assert_refused(call(capsys, "scan", "--resume", path), path.name)
        assert_refused(call(capsys, "scan", "--profile", "tiny", "--out", path), "exists already")
        assert path.read_bytes() == before


def test_no_command_shows_the_help(capsys):
    code, _, err = call(capsys)
    assert code == 2
    assert "Traceback" not in err


def test_torch_is_not_loaded_by_check_and_scan(tmp_path):
    script = (
        "import sys\n"
        "from app.cli import app\n"
        f"app(['check', '--profile', 'tiny', '--json'], standalone_mode=False)\n"
        f"app(['scan', '--profile', 'tiny', '--out', {str(tmp_path / 'run.h5')!r}, '--json'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["outcome"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_aborts_cleanly_and_the_file_can_be_resumed(capsys, tmp_path, monkeypatch, number):
    from app.acquire import command

    frames = []
    committed = command.ConsoleProgress.frame_committed

    def interrupt(self, frame, progress):
        frames.append(frame)
        if len(frames) == 5:
            os.kill(os.getpid(), number)
        committed(self, frame, progress)

    monkeypatch.setattr(command.ConsoleProgress, "frame_committed", interrupt)
    path = tmp_path / "run.h5"
    code, out, _ = call(capsys, "scan", "--profile", "tiny", "--out", path, "--json")
    assert code == 128 + number
    assert result(out)["outcome"] == "aborted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    code, out, _ = call(capsys, "scan", "--resume", path, "--json")
    assert result(out)["outcome"] == "completed"


def test_json_has_no_number_that_is_not_finite():
    import numpy as np

    assert finite({"a": float("nan"), "b": [1.0, float("inf")], "c": np.float32(2.0), "d": np.int64(3), "e": "x"}) == {
        "a": None,
        "b": [1.0, None],
        "c": 2.0,
        "d": 3,
        "e": "x",
    }


def float_options():
    """(command, option) of every option of the program that takes numbers with a fraction."""
    found = []
    groups = [((), app), *(((group.name,), group.typer_instance) for group in app.registered_groups)]
    for path, group in groups:
        for command in group.registered_commands:
            name = command.name or command.callback.__name__.replace("_", "-")
            hints = get_type_hints(command.callback, include_extras=True)
            for parameter, hint in hints.items():
                if get_origin(hint) is Annotated and "float" in str(hint.__origin__):
                    given = [word for word in hint.__metadata__[0].param_decls or () if word.startswith("--")]
                    found.append(((*path, name), given[0] if given else "--" + parameter.replace("_", "-")))
    return found


def test_every_command_with_numbers_is_known_to_the_test_below():
    found = float_options()
    assert len(found) > 30
    assert (("gui",), "--speed") in found
    assert (("study", "landscape"), "--exposure") in found


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize(("command", "option"), float_options(), ids=lambda part: str(part).strip("-"))
def test_options_take_finite_numbers_in_their_range_only(capsys, tmp_path, monkeypatch, command, option, value):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *command, f"{option}={value}")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: Invalid value for '{option}'")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_its_traceback():
    def bug():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_guarded(bug)
    assert known_message(ZeroDivisionError()) is None
    assert "make room" in (known_message(OSError(28, "No space left on device")) or "")
    assert "denied" in (known_message(PermissionError(13, "Permission denied", "x.h5")) or "")
