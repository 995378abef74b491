"""The real engine behind real sockets, from the first frame to what the run keeps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from app.acquire.observer import RunState, SilentObserver
from app.acquire.scan import Scan
from app.reconstruction import reconstruct_file
from app.request import Request
from app.worker.engine import Engine
from app.worker.enough import Target
from app.worker.following import followed
from app.worker.live import Live
from app.worker.place import Elsewhere
from app.worker.server import Server
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result
from tests.worker.test_following import bright  # noqa: F401
from tests.worker.test_session import quick_to_estimate


@dataclass(frozen=True)
class Sharp(Target):
    """Three points of the tiny bench never show enough of an object to be sure of it: here the deviation decides."""

    def reached(self, numbers, frames: int) -> str:
        return super().reached({**numbers, "verdict": "recovered"}, frames)


@pytest.fixture
def served() -> Iterator[str]:
    engine = Engine("cpu")
    server = Server(engine, engine.device, engine.software)
    over = threading.Event()
    thread = threading.Thread(target=server.run, args=(over.is_set,))
    thread.start()
    yield server.address
    over.set()
    thread.join()
    server.close()


def test_a_scan_is_judged_calibrated_and_reconstructed(served, bright, tmp_path):  # noqa: F811
    path = Path(tmp_path / "run.h5")
    scan = Scan.new(quick_to_estimate((3e-6,)), path, 0, lent=bright)
    live = Live(Elsewhere(served))
    live.target = Sharp(0.5)
    live.choose("", "known")
    with scan.devices, followed(scan, live, SilentObserver(), lambda: False) as both:
        assert scan.runner(both, enough=both.enough).run() is RunState.COMPLETED
    assert live.failed == ""
    with open_run(path) as run:
        # The first image decided, under the light that was lent.
        assert [run.committed(entry) for entry in (1, 2)] == [9, 1]
        assert any("enough light" in line for line in run.log)
    arrays, settings = load_result(path, 2, "reconstruction_latent")
    assert (settings["decoder"], settings["pose_prior"]) == ("mnist-4", "known")
    assert load_calibration(path) is not None
    # What is kept is what the command makes of the file, under its own light.
    reconstruct_file(path, Request(pose="known"), tmp_path, "cpu")
    again, own = load_result(path, 2, "reconstruction_latent")
    np.testing.assert_array_equal(arrays["image"], again["image"])
    assert settings["log_evidence"] == own["log_evidence"]
