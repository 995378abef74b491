"""Options: bounds that physics sets, seeds, choices that nobody would read; a mistake is one line before anything."""

import subprocess
import sys
from typing import Annotated, get_origin, get_type_hints

import numpy as np
import pytest

from app.cli import app
from app.errors import known_message, run_guarded
from app.request import METHODS, TAKERS, Request
from recon.limits import MOST_MODES, MOST_SEED


def call(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program."""
    code = run_guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(answer, *words: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    for word in words:
        assert word in err


def commands_with(parameter: str) -> list[tuple[str, ...]]:
    """Commands that have an option of that name."""
    groups = [((), app), *(((group.name,), group.typer_instance) for group in app.registered_groups)]
    found = []
    for path, group in groups:
        for command in group.registered_commands:
            hints = get_type_hints(command.callback, include_extras=True)
            if get_origin(hints.get(parameter)) is Annotated:
                found.append((*path, command.name or command.callback.__name__.replace("_", "-")))
    return found


@pytest.mark.parametrize("command", commands_with("seed"), ids=" ".join)
def test_a_seed_that_no_generator_takes_is_refused_by_every_command(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, *command, "--seed", "99999999999999999999")
    refused(answer, "--seed", "99999999999999999999", str(MOST_SEED))
    assert list(tmp_path.iterdir()) == []


def test_every_command_with_a_seed_is_known_to_the_test_above():
    assert {("scan",), ("train",), ("study", "landscape"), ("move",)} <= set(commands_with("seed"))


@pytest.mark.parametrize("command", ["calibrate", "orient", "import"])
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--distance", "1e300", "0000 m"),
        ("--distance", "1e-30", "1e-09"),
        ("--pixel-size", "1e-30", "1e-12"),
        ("--pixel-size", "3", "0.1 m"),
        ("--wavelength", "1e300", "0.01 m"),
        ("--wavelength", "561", "unit"),
        ("--focus-to-sample", "1e-300", "1e-09"),
    ],
)
def test_what_no_instrument_has_is_refused_with_its_bounds(capsys, tmp_path, command, option, value, words):
    answer = call(capsys, command, tmp_path / "x.cxi", "--out", tmp_path / "y.cxi", option, value)
    refused(answer, option, f"{float(value):.6g} m is outside", words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "x.h5", "--modes", "100"), ("--modes", "100", str(MOST_MODES))),
        (("calibrate", "x.h5", "--flux-spread", "1e300"), ("--flux-spread", "10")),
        (("calibrate", "x.h5", "--background-spread", "1e300"), ("--background-spread", "1000")),
        (("calibrate", "x.h5", "--memory", "1e300"), ("--memory", "1000000")),
        (("calibrate", "x.h5", "--epochs", "100000000000000000000"), ("--epochs", "100000")),
        (("reconstruct", "x.h5", "--method", "paper", "--learning-rate", "0"), ("--learning-rate", "0", "above 0")),
        (("reconstruct", "x.h5", "--method", "paper", "--learning-rate", "1e300"), ("--learning-rate", "100")),
        (("reconstruct", "x.h5", "--method", "hybrid", "--rehearsals", "1000000"), ("--rehearsals", "1000")),
        (("scan", "--out", "x.h5", "--enough", "0"), ("--enough", "0")),
        (("scan", "--out", "x.h5", "--enough", "1e300"), ("--enough", "1")),
        (("scan", "--out", "x.h5", "--passes", "1000000000000"), ("--passes", "10000")),
        (("train", "--image-size", "100000"), ("--image-size", "100000", "1024")),
        (("train", "--latent", "100000000"), ("--latent", "2048")),
        (("train", "--linear-layers", "100000000"), ("--linear-layers", "32")),
        (("study", "dose", "--processes", "100000"), ("--processes", "1024")),
        (("study", "dose", "--seeds", "1000000000000"), ("--seeds", "10000")),
        (("study", "decoder", "--digits", "foo"), ("--digits 'foo'", "two digits")),
        (("check", "--profile", "tiny", "--object", ""), ("object ''",)),
        (("check", "--profile", "tiny", "--object", "relief:"), ("object 'relief:'",)),
    ],
    ids=lambda part: " ".join(part)[:50] if isinstance(part, tuple) else None,
)
def test_numbers_beyond_sense_are_refused_with_their_limit(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused(call(capsys, *arguments), *words)
    assert list(tmp_path.iterdir()) == []


GIVEN = {
    "decoder": "mnist",
    "pose": "known",
    "rehearsals": 8,
    "positivity": False,
    "learning_rates": (0.3,),
    "start": "random",
    "epochs": 3,
    "loss": "mixed",
    "seed": 3,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("option", TAKERS)
def test_a_choice_that_the_method_never_reads_is_refused_with_the_methods_that_do(option, method):
    name, takers = TAKERS[option]
    request = Request(method=method, **{name: GIVEN[name]})
    if method in takers:
        request.check()
        return
    with pytest.raises(Exception, match=f"^{option}: the {method} method has no such choice") as error:
        request.check()
    message = known_message(error.value)
    assert message is not None
    assert all(taker in message for taker in takers)


def test_pixels_may_be_complex_by_the_conventional_method_only(capsys):
    refused(call(capsys, "reconstruct", "x.h5", "--no-positivity"), "--no-positivity", "latent", "conventional")
    refused(call(capsys, "reconstruct", "x.h5", "--method", "paper", "--positivity"), "--positivity", "conventional")


@pytest.mark.parametrize("way", [("--resume",), ("--retake", "--point", "3")])
@pytest.mark.parametrize(
    "option",
    [
        ("--profile", "tiny"),
        ("--seed", "3"),
        ("--object", "digit:3"),
        ("--notes", "x"),
        ("--sample-name", "x"),
        ("--darks", "d.h5"),
        ("--calibration", "c.h5"),
        ("--passes", "2"),
        ("--no-empty",),
        ("--enough", "0.1"),
        ("--next", "posterior"),
    ],
    ids=" ".join,
)
def test_a_scan_that_goes_on_knows_the_rest_and_reads_nothing_else(capsys, tmp_path, monkeypatch, way, option):
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, "scan", way[0], "run.h5", *way[1:], *option)
    refused(answer, f"scan: {option[0]}: run.h5 knows the rest of its scan; leave that out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("study", "landscape", "--run", "x.h5", "--index", "3"), ("--index", "--run x.h5")),
        (("study", "landscape", "--run", "x.h5", "--photons", "3", "--seed", "1"), ("--photons, --seed",)),
        (("study", "landscape", "--exposure", "0.1"), ("--exposure", "--run FILE")),
        (("study", "landscape", "--pose", "known"), ("--pose", "--run FILE")),
        (("study", "dose", "--scheduler", "tcp://x:1", "--processes", "2"), ("--processes 2", "--scheduler")),
        (("align", "--profile", "tiny", "--out", "x.toml"), ("--out", "--write")),
        (("gui", "--replay", "x.h5", "--seed", "3"), ("--seed", "a replay has no bench")),
        (("gui", "--no-live", "--server", "127.0.0.1:5577"), ("--server", "--no-live")),
        (("serve", "--make-keys", "k", "--device", "cpu"), ("--device", "--make-keys")),
        (("calibrate", "x.cxi", "--probe", "p.npz", "--probe-diameter", "1e-4"), ("--probe-diameter", "--probe")),
    ],
    ids=lambda part: " ".join(part)[:50],
)
def test_an_option_that_another_makes_idle_is_refused(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused(call(capsys, *arguments), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there always is a screen")
def test_a_window_without_a_screen_is_refused_instead_of_ended_by_qt(capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    refused(call(capsys, "gui", "--profile", "tiny"), "gui: no screen here", "DISPLAY")


def test_a_number_of_an_object_that_the_source_does_not_hold_is_told_with_those_it_holds(capsys, tmp_path):
    stack = tmp_path / "stack.npy"
    np.save(stack, np.full((3, 32, 32), 0.5, np.float32))
    answer = call(capsys, "study", "landscape", "--objects", stack, "--index", "999999", "--out", tmp_path / "out")
    code, _, err = answer
    assert code == 2
    assert f"error: --index 999999: {stack} holds images 0 .. 2; choose one of them" in err


def test_the_version_is_told_without_loading_torch():
    script = (
        "import sys\nfrom app.cli import app\napp(['--version'], standalone_mode=False)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, last = done.stdout.splitlines()
    assert first.startswith("ptychoscope ")
    assert f"Python {sys.version.split()[0]}" in first
    assert "torch 2." in first
    assert last == "False"
