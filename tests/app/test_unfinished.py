"""What Ctrl-C leaves of calibrations, images and demos, and calibrations of visits that were made again since."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.acquire import command
from app.acquire.plan import Stream
from app.acquire.scan import Scan
from app.errors import Interrupted, UsageError
from app.profile import load_profile
from app.progress import Course as ProgressCourse
from app.worker.source import RecordedSource
from recon.dataset import DatasetError
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result, store_calibration, store_result
from tests.app.test_pipeline import call, last_json

BRIEF = ("--device", "cpu", "--no-uncertainty", "--json")
SERIES = 2
"""A scan point of the evaluation series."""


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> Path:
    """A run on the tiny bench that nobody has calibrated."""
    path = tmp_path_factory.mktemp("scanned") / "run.h5"
    command.run_scan("tiny", 0, None, path, None)
    return path


@pytest.fixture
def bare(scanned, tmp_path) -> Path:
    return Path(shutil.copy(scanned, tmp_path / "run.h5"))


@pytest.fixture(scope="module")
def known(scanned, tmp_path_factory) -> Path:
    """The same with a brief calibration, which is complete."""
    path = Path(shutil.copy(scanned, tmp_path_factory.mktemp("known") / "run.h5"))
    from app.calibration import calibrate_file
    from recon.files.imports import Overrides

    calibrate_file(path, path.parent, "cpu", None, 8, 0, Overrides(), with_uncertainty=False)
    return path


@pytest.fixture
def calibrated(known, tmp_path) -> Path:
    return Path(shutil.copy(known, tmp_path / "run.h5"))


@pytest.fixture
def ctrl_c(monkeypatch) -> Callable[..., None]:
    """Have somebody press Ctrl-C once a piece of work whose name begins so has come so far."""

    def pressed(piece: str, at: int = 1) -> None:
        names: list[str] = []
        begin, advance = ProgressCourse.begin, ProgressCourse.advance

        def begun(course, name, total):
            names.append(name)
            begin(course, name, total)

        def advanced(course, done, *rest):
            advance(course, done, *rest)
            if names[-1].startswith(piece) and done == at:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(ProgressCourse, "begin", begun)
        monkeypatch.setattr(ProgressCourse, "advance", advanced)

    return pressed


def last_line(err: str) -> str:
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_an_interrupted_calibration_is_kept_marked_and_whoever_uses_it_says_so(
    bare, tmp_path, capsys, ctrl_c, monkeypatch
):
    ctrl_c("calibrating", 3)
    code, out, err = call(capsys, "calibrate", bare, "--out", tmp_path / "c", *BRIEF)
    monkeypatch.undo()
    assert code == 130
    values = last_json(out)
    assert (values["interrupted"], values["epochs"]) == (True, 3)
    assert last_line(err) == (
        f"interrupted: calibrate: what 3 epochs found is kept in {bare}, marked as interrupted; the same command "
        "begins anew, with --checkpoint FILE it could go on"
    )
    stored = load_calibration(bare)
    assert stored is not None
    assert stored.interrupted
    assert (tmp_path / "c" / "calibration.png").is_file()
    # Light that is there is looked at with a warning; light that would be spent, or shown live, is not.
    warning = f"warning: {bare}: its calibration was interrupted after 3 epochs; `ptychoscope calibrate {bare}` makes"
    for used in (
        ("export", bare, "--out", tmp_path / "out.cxi"),
        ("reconstruct", bare, "--method", "conventional", "--epochs", 2, "--out", tmp_path / "r"),
        ("study", "landscape", "--run", bare, "--pose", "known", "--points", 11, "--decoder", "mnist-4", "--losses",
         "mixed", "--out", tmp_path / "l"),
    ):  # fmt: skip
        code, out, err = call(capsys, *used, "--json")
        assert code == 0
        assert warning in err
        if used[0] != "study":
            assert last_json(out)["calibration_interrupted"] is True
    low = ("scan", "--profile", "tiny", "--object", "digit:7", "--calibration", bare, "--out", tmp_path / "low.h5")
    code, _, err = call(capsys, *low)
    assert code == 2
    assert f"its calibration was interrupted after 3 epochs; run `ptychoscope calibrate {bare}` again" in err
    with pytest.raises(DatasetError, match="interrupted after 3 epochs"):
        RecordedSource(bare).calibrated()
    # A complete one takes its place.
    assert call(capsys, "calibrate", bare, "--out", tmp_path / "c", "--epochs", 4, *BRIEF)[0] == 0
    assert not load_calibration(bare).interrupted


def test_an_interrupted_calibration_never_replaces_a_complete_one(calibrated, tmp_path, capsys, ctrl_c):
    before = load_calibration(calibrated)
    ctrl_c("calibrating", 2)
    code, out, err = call(capsys, "calibrate", calibrated, "--out", tmp_path / "c", *BRIEF)
    assert code == 130
    assert last_json(out)["figure"] is None
    assert f"{calibrated} keeps its complete calibration, nothing of the 2 epochs of this one" in last_line(err)
    after = load_calibration(calibrated)
    for name in ("probe", "positions_m", "loss"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert not (tmp_path / "c").exists()


def test_with_a_checkpoint_the_same_command_goes_on_to_the_same_end(bare, tmp_path, capsys, ctrl_c, monkeypatch):
    other = Path(shutil.copy(bare, tmp_path / "other.h5"))
    state = tmp_path / "state.npz"
    arguments = ("--epochs", 6, "--out", tmp_path / "c", *BRIEF)
    assert call(capsys, "calibrate", other, *arguments)[0] == 0
    arguments += ("--checkpoint", state)
    ctrl_c("calibrating", 3)
    code, _, err = call(capsys, "calibrate", bare, *arguments)
    monkeypatch.undo()
    assert code == 130
    assert last_line(err).endswith(f"marked as interrupted; the same command goes on from {state}")
    code, out, _ = call(capsys, "calibrate", bare, *arguments)
    assert code == 0
    assert (last_json(out)["interrupted"], last_json(out)["epochs"]) == (False, 6)
    assert not state.exists()
    whole, resumed = load_calibration(other), load_calibration(bare)
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-6)
    np.testing.assert_allclose(resumed.positions_m, whole.positions_m, atol=1e-10)


def test_ctrl_c_after_the_calibration_costs_its_deviations_only(bare, tmp_path, capsys, ctrl_c):
    ctrl_c("uncertainties")
    code, out, err = call(
        capsys, "calibrate", bare, "--epochs", 3, "--out", tmp_path / "c", "--json", "--device", "cpu"
    )
    assert code == 130
    assert "distance_sigma_m" not in last_json(out)
    assert last_line(err) == (
        f"interrupted: calibrate: the calibration is complete and kept in {bare} without standard deviations, "
        "which the same command finds"
    )
    stored = load_calibration(bare)
    assert (len(stored.loss), stored.interrupted, stored.uncertainty) == (3, False, None)


def test_somebody_elses_complete_calibration_is_spared_too(tmp_path, capsys, ctrl_c):
    rng = np.random.default_rng(0)
    path, out = tmp_path / "bare.npz", tmp_path / "out"
    frames, places = rng.poisson(40, (5, 64, 64)).astype(np.float32), 4e-5 * rng.standard_normal((5, 2))
    np.savez(path, data=frames, positions=places)
    given = ("--wavelength", "5e-7", "--distance", "0.02", "--pixel-size", "1e-5", "--epochs", "4", "--out", out)
    assert call(capsys, "calibrate", path, *given, *BRIEF)[0] == 0
    before = (out / "calibration.npz").read_bytes()
    ctrl_c("calibrating", 2)
    code, _, err = call(capsys, "calibrate", path, *given, *BRIEF)
    assert code == 130
    assert f"{out / 'calibration.npz'} keeps its complete calibration" in last_line(err)
    assert (out / "calibration.npz").read_bytes() == before


def test_an_interrupted_image_is_kept_marked_and_spares_a_complete_one(calibrated, tmp_path, capsys, ctrl_c):
    free = ("reconstruct", calibrated, "--method", "conventional", "--out", tmp_path / "r", "--json")
    ctrl_c("conventional")
    code, out, err = call(capsys, *free)
    assert (code, last_json(out)["interrupted"]) == (130, True)
    assert f"is kept in {calibrated}, marked as interrupted; the same command begins anew" in last_line(err)
    arrays, settings = load_result(calibrated, 2, "reconstruction_conventional")
    assert settings["interrupted"]
    store_result(calibrated, 2, {"object": np.eye(3)}, settings | {"interrupted": False}, "reconstruction_conventional")
    code, out, err = call(capsys, *free)
    assert (code, last_json(out)) == (130, {"interrupted": True})
    assert f"{calibrated} keeps its complete conventional image" in last_line(err)
    arrays, _ = load_result(calibrated, 2, "reconstruction_conventional")
    np.testing.assert_array_equal(arrays["object"], np.eye(3))


def test_a_latent_image_that_is_complete_all_the_same_is_kept_and_130(calibrated, tmp_path, capsys, ctrl_c):
    ctrl_c("latent")
    code, out, err = call(capsys, "reconstruct", calibrated, "--pose", "known", "--out", tmp_path / "r", "--json")
    assert (code, last_json(out)["interrupted"]) == (130, True)
    assert last_line(err) == f"interrupted: reconstruct: the image is complete and kept in {calibrated}"
    assert load_result(calibrated, 2, "reconstruction_latent")[1]["interrupted"] is False


def pressed_while_exposing(monkeypatch, number: int) -> None:
    """Somebody presses Ctrl-C during so many-th an exposure."""
    from simulators.camera import SimulatedCamera

    acquire, taken = SimulatedCamera.acquire, []

    def interrupted(self, *arguments):
        taken.append(self)
        if len(taken) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return acquire(self, *arguments)

    monkeypatch.setattr(SimulatedCamera, "acquire", interrupted)


def exposures_before(point: int) -> int:
    """Exposures of the tiny bench's scan before it comes to so many-th a point."""
    steps = Scan.new(load_profile("tiny"), Path("nothing.h5")).plan.steps
    bright = [step.number for step in steps if step.stream is Stream.CALIBRATION]
    return sum(step.repeats for step in steps[: bright[point]])


def test_a_demo_goes_on_with_the_scan_that_was_interrupted(tmp_path, capsys, ctrl_c, monkeypatch):
    from app.demo import run_demo

    out, new = tmp_path / "demo", tmp_path / "demo" / "run-new.h5"
    pressed_while_exposing(monkeypatch, exposures_before(4) + 1)
    code, text, err = call(capsys, "demo", "--profile", "tiny", "--out", out, "--device", "cpu", "--json")
    monkeypatch.undo()
    assert code == 130
    assert (last_json(text)["run"], last_json(text)["interrupted"]) == (str(new), True)
    assert last_line(err).startswith("interrupted: demo: in the scan; its ")
    assert last_line(err).endswith(f"frames are kept in {new}, the same command goes on with them")
    with open_run(new) as run:
        there = run.raw(1)
    # Another one does not take its place.
    with pytest.raises(UsageError, match=r"run-new\.h5 is an interrupted scan with other settings \(seed 0"):
        run_demo("tiny", 1, None, out, "cpu", None)
    # The same one goes on; and when it is stopped in its calibration, the scan is complete and kept.
    ctrl_c("calibrating", 2)
    with pytest.raises(Interrupted, match=rf"the scan is kept in {out / 'run.h5'}, go on with `ptychoscope calibrate"):
        run_demo("tiny", 0, None, out, "cpu", None)
    assert f"demo: goes on with {new}" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["run.h5"]
    with open_run(out / "run.h5") as run:
        assert run.outcome == "completed"
        assert len(there) == 4
        # Of the visit that was interrupted the frames may be others.
        np.testing.assert_array_equal(run.raw(1)[:3], there[:3])
    assert load_calibration(out / "run.h5") is None


def test_a_calibration_of_before_a_point_was_taken_again_is_refused(calibrated, tmp_path, capsys):
    assert load_calibration(calibrated).visits.tolist() == [0] * 9
    code, _, _ = call(capsys, "scan", "--retake", calibrated, "--point", SERIES)
    assert code == 0
    line = (
        f"error: {calibrated}: its calibration is of an earlier visit to point {SERIES}, taken again since; run "
        f"`ptychoscope calibrate {calibrated}` again"
    )
    low = ("scan", "--profile", "tiny", "--object", "digit:7", "--calibration", calibrated)
    uses = (
        ("reconstruct", calibrated, "--pose", "known"),
        ("reconstruct", calibrated, "--calibration", shutil.copy(calibrated, tmp_path / "other.h5")),
        ("export", calibrated, "--out", tmp_path / "out.cxi"),
        ("study", "landscape", "--run", calibrated, "--decoder", "mnist-4", "--out", tmp_path / "l"),
        (*low, "--out", tmp_path / "low.h5"),
    )
    for used in uses:
        code, out, err = call(capsys, *used)
        assert (code, out) == (2, "")
        assert last_line(err).replace("other.h5", "run.h5") == line
    with pytest.raises(DatasetError, match="of an earlier visit to point 2"):
        RecordedSource(calibrated).calibrated()
    # As given, without the calibration, it can still be exported; and calibrated again it serves.
    assert call(capsys, "export", calibrated, "--out", tmp_path / "out.cxi", "--nominal")[0] == 0
    assert call(capsys, "calibrate", calibrated, "--epochs", 3, "--out", tmp_path / "c", *BRIEF)[0] == 0
    with open_run(calibrated) as run:
        points = run.ptychogram(1).indices
    assert load_calibration(calibrated).visits.tolist() == [int(point == SERIES) for point in points]
    assert call(capsys, "export", calibrated, "--out", tmp_path / "again.cxi")[0] == 0


def test_a_calibration_that_does_not_say_counts_as_made_before_all_retakes(calibrated, tmp_path, capsys):
    stored = load_calibration(calibrated)
    store_calibration(calibrated, replace(stored, visits=None))
    assert load_calibration(calibrated).visits is None
    assert call(capsys, "export", calibrated, "--out", tmp_path / "a.cxi")[0] == 0
    assert call(capsys, "scan", "--retake", calibrated, "--point", SERIES, "--point", 5)[0] == 0
    code, _, err = call(capsys, "export", calibrated, "--out", tmp_path / "b.cxi")
    assert code == 2
    assert "of an earlier visit to points 2, 5, taken again since" in last_line(err)


def test_a_live_calibration_is_stored_for_the_visits_that_it_is_of_only(calibrated):
    from app.worker.keeper import Keeper

    said: list[str] = []
    keeper = Keeper(said.append, said.append, lambda run: None)
    source = RecordedSource(calibrated)
    message = source.calibrated()
    keeper.watch(source, calibrated)
    keeper.heard(replace(message, distance_m=0.0201))
    keeper.idle()
    stored = load_calibration(calibrated)
    assert (stored.distance_m, stored.visits.tolist()) == (0.0201, [0] * 9)
    moved = message.times.copy()
    moved[3] += 1.0
    keeper.heard(replace(message, distance_m=0.0202, times=moved))
    for _ in range(30):
        keeper.idle()
    assert load_calibration(calibrated).distance_m == 0.0201
    assert "points were taken again after its calibration began; run `ptychoscope calibrate" in said[-1]


def test_an_aborted_scan_names_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    path = tmp_path / "a run.h5"
    pressed_while_exposing(monkeypatch, exposures_before(4) + 1)
    code, out, err = call(capsys, "scan", "--profile", "tiny", "--out", path, "--json")
    monkeypatch.undo()
    assert code == 130
    typed = last_line(err).split("`")[1]
    assert typed == last_json(out)["go_on"] == f"ptychoscope scan --resume '{path}'"
    code, out, _ = call(capsys, *shlex.split(typed)[1:], "--json")
    assert (code, last_json(out)["outcome"]) == (0, "completed")
    assert "go_on" not in last_json(out)
    # Points that were to be taken again: those that are left.
    pressed_while_exposing(monkeypatch, 5)
    code, out, err = call(capsys, "scan", "--retake", path, "--point", SERIES, "--point", 5, "--json")
    monkeypatch.undo()
    assert code == 130
    typed = last_line(err).split("`")[1]
    assert typed == last_json(out)["go_on"] == f"ptychoscope scan --retake '{path}' --point 5"
    code, out, _ = call(capsys, *shlex.split(typed)[1:], "--json")
    assert (code, last_json(out)["revisions"]) == (0, 2)


def test_a_scan_that_fails_names_it_as_well(tmp_path, capsys, monkeypatch):
    from drivers.base import InstrumentError
    from simulators.camera import SimulatedCamera

    path = tmp_path / "run.h5"
    acquire, taken = SimulatedCamera.acquire, []

    def fails(self, *arguments):
        taken.append(self)
        if len(taken) == 20:
            raise InstrumentError("camera", "does not answer; plug it in again")
        return acquire(self, *arguments)

    monkeypatch.setattr(SimulatedCamera, "acquire", fails)
    code, _, err = call(capsys, "scan", "--profile", "tiny", "--out", path)
    monkeypatch.undo()
    assert code == 2
    hint, error = err.splitlines()[-2:]
    assert error.startswith("error: camera")
    assert hint == f"scan: what was taken is kept; go on with `ptychoscope scan --resume {path}`"
    assert call(capsys, *shlex.split(hint.split("`")[1])[1:])[0] == 0
    # Where nothing has begun there is nothing to go on with.
    scan = Scan.new(load_profile("tiny"), tmp_path / "absent" / "run.h5")
    assert not scan.path.exists()
    code, _, err = call(capsys, "scan", "--profile", "tiny", "--out", scan.path)
    assert code == 2
    assert "--resume" not in err
