"""`scan --enough`: a low-dose scan from the command line that ends when its image is good enough."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from app.acquire.command import run_scan
from app.acquire.plan import Plan
from app.acquire.scan import Scan
from app.cli import app
from app.errors import run_guarded
from app.profile import load_profile
from app.worker.enough import Target
from app.worker.live import Live
from app.worker.place import OwnWorker
from recon.files.read import open_run
from recon.files.results import StoredCalibration, load_result, store_calibration
from tests.worker.fakes import COMMAND


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> Path:
    """A run with a calibration that nobody has to wait for."""
    path = tmp_path_factory.mktemp("bright") / "bright.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    with open_run(path) as run:
        data = run.ptychogram(1)
    probe, pixel = np.full((32, 32), 30, np.complex64), data.geometry.pixel_size_m
    store_calibration(
        path, StoredCalibration(probe, pixel, probe, pixel, 0.02, data.positions_m, np.ones(1), {"window_px": 64}, {})
    )
    return path


@pytest.mark.parametrize(("sigma", "visits"), [(0.3, 4), (0.1, 12)])
def test_it_ends_after_the_point_at_which_the_image_is_good_enough(bright, tmp_path, capsys, sigma, visits):
    # The fake worker calls an image good, with a mean deviation of 0.25, from its fourth frame on.
    live = Live(OwnWorker((sys.executable, *COMMAND)))
    live.target = Target(sigma)
    path = tmp_path / "low.h5"
    values = run_scan("tiny", 0, None, path, None, calibration=bright, passes=4, live=live)
    assert values["outcome"] == "completed"
    with open_run(path) as run:
        taken = [run.committed(entry) for entry in (2, 3)]
    assert taken == [visits, visits]
    _, stored = load_result(path, 1, "enough_light")
    assert bool(stored["reached"]) == (sigma == 0.3)
    assert stored["share_saved"] == pytest.approx(1 - taken[0] / 12)
    assert load_result(path, 3, "reconstruction_latent") is not None
    assert ("enough light" in capsys.readouterr().err) == (sigma == 0.3)
    assert not live.link.alive


def test_it_goes_where_the_image_says_that_a_frame_tells_most(bright, tmp_path):
    # The fake worker prefers points of larger index.
    live = Live(OwnWorker((sys.executable, *COMMAND)))
    live.target = Target(0.1)
    live.look_ahead()
    path = tmp_path / "low.h5"
    assert run_scan("tiny", 0, None, path, None, calibration=bright, passes=3, live=live)["outcome"] == "completed"
    with open_run(path) as run:
        visited = [run.ptychogram(entry).indices.tolist() for entry in (2, 3)]
        plan = Plan.from_json(run.plan_json)
    rest = visited[0][1:]
    assert rest == sorted(rest, reverse=True)
    assert visited[1] == visited[0]
    assert [step.position_index for step in plan.visits_from(0)] == visited[0]
    assert load_result(path, 3, "reconstruction_latent") is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--calibration", "c.h5", "--next", "posterior"], "it is for --enough SIGMA"),
        (["--calibration", "c.h5", "--enough", "0.1", "--next", "best"], "--next best: there is --next posterior"),
        (["--enough", "0.1"], "has no calibration to judge images by"),
        (["--bright"], "has no calibration to judge images by"),
        (["--calibration", "c.h5", "--bright"], "is for --enough SIGMA"),
        (["--calibration", "c.h5", "--bright", "--enough", "0.1", "--passes", "2"], "are for low-dose scans"),
        (["--server", "127.0.0.1:5577"], "are for --enough"),
        (["--calibration", "c.h5", "--enough", "0.1", "--keys", "k"], "are for --server"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, tmp_path, arguments, words):
    code = run_guarded(lambda: app(["scan", "--out", str(tmp_path / "r.h5"), *arguments], standalone_mode=False))
    err = capsys.readouterr().err
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_the_rest_of_a_run_is_taken_whole(capsys, tmp_path):
    arguments = ["scan", "--resume", str(tmp_path / "r.h5"), "--enough", "0.1"]
    assert run_guarded(lambda: app(arguments, standalone_mode=False)) == 2
    assert "knows the rest of its scan; leave that out" in capsys.readouterr().err
