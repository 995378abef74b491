"""Files that are written in the end are asked for at the beginning: one line, exit code 2, and no work done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app import outputs
from app.errors import UsageError
from app.outputs import require_file, require_folder
from tests.app.test_pipeline import call, one_line


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "absent.h5"),
        ("reconstruct", "absent.h5"),
        ("orient", "absent.h5"),
        ("demo", "--profile", "tiny"),
        ("study", "dose"),
        ("study", "next"),
        ("study", "landscape"),
        ("study", "decoder"),
    ],
)
@pytest.mark.parametrize("place", ["taken", "taken/further/down"])
def test_a_folder_that_cannot_be_is_refused(capsys, tmp_path, monkeypatch, command, place):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_bytes(b"somebody's")
    code, out, err = call(capsys, *command, "--out", place)
    assert (code, out) == (2, "")
    assert one_line(err) == (
        f"error: {command[0]}: {'taken' if place == 'taken' else tmp_path / 'taken'} is a file, not a folder; choose "
        "another --out"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert Path("taken").read_bytes() == b"somebody's"


def test_a_package_that_cannot_be_is_refused(capsys, tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    code, _, err = call(capsys, "train", "--out", tmp_path / "taken" / "new.safetensors")
    assert code == 2
    assert f"train: {tmp_path / 'taken'} is a file, not a folder" in one_line(err)


@pytest.mark.parametrize(("state", "said"), [("absent/state.npz", "does not exist; create it"), ("", "is a folder")])
def test_a_checkpoint_that_cannot_be_is_refused(capsys, tmp_path, state, said):
    code, _, err = call(capsys, "calibrate", tmp_path / "absent.h5", "--checkpoint", tmp_path / state)
    assert code == 2
    assert one_line(err).startswith("error: calibrate: ")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_writable_is_named(tmp_path, monkeypatch):
    inside, state = tmp_path / "a" / "b", tmp_path / "state.npz"
    require_folder("demo", inside)
    require_file("calibrate", state)
    assert not (tmp_path / "a").exists()
    state.write_bytes(b"")
    require_file("calibrate", state)
    # As root everything is writable; so the system is asked for another's rights.
    monkeypatch.setattr(
        outputs.os, "access", lambda path, mode: Path(path) != state and os.fspath(path) != str(tmp_path)
    )
    with pytest.raises(UsageError, match=rf"demo: the folder {tmp_path} is not writable; choose another --out"):
        require_folder("demo", inside)
    with pytest.raises(UsageError, match=rf"calibrate: the folder {tmp_path} of state.npz is not writable"):
        require_file("calibrate", state)
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path) != state)
    with pytest.raises(UsageError, match=r"state\.npz is not writable; choose another name"):
        require_file("calibrate", state)
