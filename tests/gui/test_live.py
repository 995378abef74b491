"""Live reconstruction over the real window and runner: shown, stored, and never in the way of a scan."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PyQt5.QtCore import QPoint, QPointF, Qt
from PyQt5.QtGui import QWheelEvent
from PyQt5.QtWidgets import QApplication

from app.acquire.observer import Observer, RunState, SilentObserver
from app.acquire.scan import Scan
from app.gui.live import LivePanel
from app.gui.program import configure_plots
from app.live import orders
from app.live.orders import ScanRequest
from app.profile import load_profile
from app.worker.link import LinkState
from app.worker.live import Live
from app.worker.place import OwnWorker
from recon.decoders.package import installed_packages
from recon.files.read import open_run
from recon.files.results import load_calibration, load_result
from tests.gui.rigs import Desk, desk
from tests.worker.fakes import COMMAND, EPOCHS

SHORT, LONG = load_profile("tiny").scan.evaluation_exposures_s


@dataclass
class LiveDesk:
    """A window with a reconstruction in it."""

    desk: Desk
    panel: LivePanel
    worker: OwnWorker

    @property
    def finals(self) -> dict[float, int]:
        """Frames of each final image that has arrived."""
        shown = self.panel.live.shown
        images = {} if shown is None else shown.images
        return {e: i.estimate.frames for e, i in images.items() if i.estimate is not None and i.estimate.final}

    def scan(self, path: Path, speed: float = 300.0) -> None:
        self.desk.connect(speed)
        self.desk.ready_to_scan(path)
        self.desk.start_scan()
        self.desk.window.show_panel("guest-0")
        self.desk.until(lambda: self.desk.bench.run is not None)

    def finish(self) -> None:
        self.desk.until(lambda: not self.desk.bench.run.running and self.desk.bench.idle)
        self.desk.until(lambda: self.finals == {SHORT: 3, LONG: 3})


class Patient(SilentObserver):
    """A run's listener and judge that says nothing, and lets the scan wait for the images of what it has taken."""

    def __init__(self, live: Live):
        self._live = live

    def run_begins(self, scan: Scan) -> Observer:
        return self

    def enough(self, step: int) -> None:
        never = threading.Event()
        while not self._live.seen(step) and not self._live.failed:
            never.wait(0.01)


@pytest.fixture
def live_desk(qtbot, tmp_path) -> Iterator[LiveDesk]:
    configure_plots()
    worker = OwnWorker((sys.executable, *COMMAND))
    panel = LivePanel(Live(worker))
    with desk(qtbot, tmp_path, [panel]) as made:
        yield LiveDesk(made, panel, worker)
    link = panel.live.link
    link.join(20)
    assert not link.alive
    assert worker.process is None


def test_a_scan_is_reconstructed_while_it_goes_on_and_the_run_keeps_it(live_desk, tmp_path):
    path = tmp_path / "run.h5"
    live_desk.scan(path)
    live_desk.finish()
    panel = live_desk.panel
    live_desk.desk.until(lambda: panel.verdict.text() == "Recovered")
    assert panel.reason.text().startswith("3 frames")
    assert panel.bars.values == {"3": 0.25, "7": 0.75}
    assert panel.numbers["Frames"].text() == "3 of 3"
    assert panel.pictures["Latent"].shown
    live_desk.desk.until(lambda: panel.pictures["Conventional"].shown)
    assert len(panel.live.shown.epochs) == EPOCHS
    live_desk.desk.until(lambda: "up to date" in panel.status.text())
    live_desk.desk.until(lambda: "image of 0.03 s" in live_desk.desk.messages())
    assert load_calibration(path).distance_m == 0.02
    for entry in (2, 3):
        arrays, settings = load_result(path, entry, "reconstruction_latent")
        assert settings["verdict"] == "recovered"
        np.testing.assert_array_equal(arrays["image"], 3)
    live_desk.desk.click(panel.pages["Calibration"])
    assert panel.stack.currentIndex() == 0
    live_desk.desk.click(panel.exposures[SHORT])
    assert panel.stack.currentIndex() == 1


def test_a_worker_killed_in_mid_series_disturbs_nobody_and_catches_up(live_desk, tmp_path):
    live_desk.scan(tmp_path / "run.h5", speed=60.0)
    live_desk.desk.until(lambda: live_desk.panel.live.status.run != "")
    live_desk.desk.until(lambda: live_desk.desk.bench.run.done > 20)
    live_desk.worker.process.kill()
    live_desk.desk.until(lambda: live_desk.panel.live.status.restarts == 1)
    live_desk.finish()
    assert live_desk.desk.bench.run.state is RunState.COMPLETED
    assert "it is started again" in live_desk.desk.messages()
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "completed"


def test_a_window_closed_in_mid_scan_takes_its_worker_along(live_desk, tmp_path):
    path = tmp_path / "run.h5"
    live_desk.scan(path, speed=30.0)
    live_desk.desk.until(lambda: live_desk.panel.live.status.run != "" and live_desk.desk.bench.run.done > 4)
    process = live_desk.worker.process
    live_desk.desk.window.close()
    live_desk.desk.click(live_desk.desk.window.notices.closing.yes)
    live_desk.desk.until(lambda: not live_desk.desk.window.isVisible())
    live_desk.desk.until(lambda: process.poll() is not None)
    with open_run(path) as run:
        assert run.outcome == "aborted"
        assert run.steps_committed > 0


def test_a_run_that_is_resumed_is_completed_from_its_file(live_desk, tmp_path):
    path = tmp_path / "run.h5"
    live_desk.scan(path, speed=20.0)
    live_desk.desk.until(lambda: live_desk.desk.bench.run.done > 10)
    live_desk.desk.click(live_desk.desk.window.scan.abort)
    live_desk.desk.until(lambda: live_desk.desk.bench.run.state is RunState.ABORTED and live_desk.desk.bench.idle)
    request = ScanRequest(path, live_desk.desk.bench.profile, resume=True)
    live_desk.desk.until(lambda: live_desk.desk.window.owner.give(orders.scan(request)))
    live_desk.desk.until(lambda: live_desk.desk.bench.run.state is RunState.COMPLETED)
    live_desk.finish()


def test_a_run_with_a_point_that_was_taken_again_is_reconstructed_anew(live_desk, tmp_path):
    path = tmp_path / "run.h5"
    live_desk.scan(path)
    live_desk.finish()
    live_desk.desk.until(lambda: "image of 0.03 s" in live_desk.desk.messages())
    first = live_desk.panel.live.shown.run
    live_desk.desk.until(lambda: live_desk.desk.window.owner.give(orders.retake(path, [4])))
    live_desk.desk.until(lambda: "point 4 taken again, completed" in live_desk.desk.messages())
    live_desk.desk.until(lambda: live_desk.panel.live.shown.run != first)
    live_desk.finish()
    live_desk.desk.until(lambda: live_desk.desk.messages().count("image of 0.03 s") == 2)


def test_a_low_dose_scan_is_reconstructed_under_the_earlier_calibration(live_desk, tmp_path):
    bright, low = tmp_path / "bright.h5", tmp_path / "low.h5"
    live_desk.scan(bright)
    live_desk.finish()
    live_desk.desk.until(lambda: "image of 0.03 s" in live_desk.desk.messages())
    request = ScanRequest(low, live_desk.desk.bench.profile, calibration=bright)
    live_desk.desk.until(lambda: live_desk.desk.window.owner.give(orders.scan(request)))
    live_desk.desk.until(lambda: live_desk.panel.live.shown.calibrated is None)
    live_desk.finish()
    assert not live_desk.panel.live.shown.epochs
    live_desk.desk.until(lambda: live_desk.desk.messages().count("image of 0.03 s") == 2)
    assert load_result(low, 3, "reconstruction_latent") is not None
    assert load_calibration(low) is None


def test_a_low_dose_scan_ends_when_it_has_had_enough_light(live_desk, tmp_path):
    bright, low = tmp_path / "bright.h5", tmp_path / "low.h5"
    live_desk.scan(bright)
    live_desk.finish()
    live_desk.desk.until(lambda: "image of 0.03 s" in live_desk.desk.messages())
    panel, profile = live_desk.panel, live_desk.desk.bench.profile
    panel.sigma.setValue(0.3)
    panel.until.click()
    request = ScanRequest(low, profile, calibration=bright, passes=40)
    live_desk.desk.until(lambda: live_desk.desk.window.owner.give(orders.scan(request)))
    # The fake worker takes an image for good from its fourth frame on.
    live_desk.desk.until(lambda: "enough light" in live_desk.desk.messages())
    live_desk.desk.until(lambda: not live_desk.desk.bench.run.running and live_desk.desk.bench.idle)
    assert live_desk.desk.bench.run.state is RunState.COMPLETED
    live_desk.desk.until(lambda: bool(re.search(r"stored in low\.h5: .*dose", live_desk.desk.messages())))
    _, values = load_result(low, 1, "enough_light")
    assert values["target_sigma"] == 0.3
    assert values["reached"].startswith("recovered from")
    with open_run(low) as run:
        assert run.outcome == "completed"
        taken = [run.committed(entry) for entry in (2, 3)]
        assert any("enough light" in line for line in run.log)
    # Whole visits only, and what was not spent is told.
    assert taken[0] == taken[1] < 120
    assert values["photons_spent"] == pytest.approx(3.3333333e6 * taken[0] * (SHORT + LONG))
    assert values["share_saved"] == pytest.approx(1 - taken[0] / 120)
    live_desk.desk.until(lambda: "not spent" in panel.dose.text())


def test_a_single_trajectory_leaves_exposures_out_under_a_calibration_that_is_lent_to_it(live_desk, tmp_path):
    bright, path = tmp_path / "bright.h5", tmp_path / "single.h5"
    live_desk.scan(bright)
    live_desk.finish()
    live_desk.desk.until(lambda: "image of 0.03 s" in live_desk.desk.messages())
    panel, window = live_desk.panel, live_desk.desk.window
    panel.sigma.setValue(0.3)
    panel.until.click()
    form = window.scan.form
    form.calibration.take(bright)
    assert form.calibration.name.text() == "bright.h5"
    live_desk.desk.ready_to_scan(path)
    request = form.request()
    assert (request.lent, request.calibration) == (bright, None)
    window.owner.listeners.insert(0, Patient(panel.live))
    live_desk.desk.until(lambda: window.owner.give(orders.scan(request)))
    live_desk.desk.until(lambda: live_desk.desk.bench.run.path == path)
    live_desk.desk.until(lambda: not live_desk.desk.bench.run.running and live_desk.desk.bench.idle)
    assert live_desk.desk.bench.run.state is RunState.COMPLETED
    live_desk.desk.until(lambda: bool(re.search(r"stored in single\.h5: .*dose", live_desk.desk.messages())))
    with open_run(path) as run:
        taken = [run.committed(entry) for entry in (1, 2, 3)]
        assert any("without" in line for line in run.log)
    assert taken == [9, 2, 2]
    live_desk.desk.until(lambda: "without 1 x" in panel.dose.text())
    # What was left out can be taken; then nothing is left of the run.
    assert orders.unfinished(path) is None
    live_desk.desk.until(lambda: window.owner.give(orders.scan(replace(request, resume=True))))
    live_desk.desk.until(lambda: "taken again, completed" in live_desk.desk.messages())
    live_desk.desk.until(lambda: live_desk.desk.bench.idle)
    assert orders.unfinished(path) == "it is complete"


def test_without_a_calibration_it_says_before_the_scan_that_nobody_can_judge(live_desk, tmp_path):
    live_desk.panel.until.click()
    live_desk.scan(tmp_path / "run.h5")
    live_desk.desk.until(lambda: "enough light cannot be told" in live_desk.desk.messages())
    live_desk.finish()
    with open_run(tmp_path / "run.h5") as run:
        assert [run.committed(entry) for entry in (1, 2, 3)] == [9, 3, 3]


def test_switched_off_there_is_no_worker(live_desk, tmp_path):
    panel = live_desk.panel
    live_desk.desk.window.show_panel("guest-0")
    panel.follow.click()
    live_desk.desk.until(lambda: panel.live.status.state is LinkState.OFF and live_desk.worker.process is None)
    live_desk.scan(tmp_path / "run.h5")
    live_desk.desk.until(lambda: not live_desk.desk.bench.run.running and live_desk.desk.bench.idle)
    live_desk.desk.until(lambda: panel.verdict.text() == "Not followed")
    assert panel.run.text() == "run.h5"
    assert panel.reason.text() == "Live was off when it began"
    panel.follow.click()
    live_desk.desk.until(lambda: panel.live.status.state is LinkState.CONNECTED)


def test_a_recorded_run_is_reconstructed_again_with_other_settings(live_desk, tmp_path):
    path = tmp_path / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    window, panel = live_desk.desk.window, live_desk.panel
    window.open_recording(path)
    live_desk.desk.until(lambda: window.owner.replay is not None and live_desk.desk.bench.idle)
    window.show_panel("guest-0")
    live_desk.desk.click(panel.again)
    live_desk.desk.until(lambda: panel.live.shown is not None and panel.live.status.state is LinkState.CONNECTED)
    assert live_desk.finals == {}
    window.owner.replay.playhead.seek(10**9)
    live_desk.desk.until(lambda: live_desk.finals == {SHORT: 3, LONG: 3})
    panel.decoder.setCurrentText("mnist-4")
    live_desk.desk.until(lambda: panel.reason.text().endswith("mnist-4"))
    live_desk.desk.until(lambda: live_desk.finals == {SHORT: 3, LONG: 3})
    # Nothing was written into the recording.
    assert load_calibration(path) is None
    assert not live_desk.desk.stage


def test_words_and_pictures_survive_light_colours(live_desk, tmp_path):
    live_desk.scan(tmp_path / "run.h5")
    live_desk.finish()
    live_desk.desk.window.set_theme("light")
    assert live_desk.panel.widget.grab().width() > 300
    live_desk.desk.bot.keyClick(live_desk.panel.follow, Qt.Key_Tab)


def test_a_run_that_is_not_followed_and_another_bench_do_not_stand_under_the_verdict_before(live_desk, tmp_path):
    at, panel = live_desk.desk, live_desk.panel
    live_desk.scan(tmp_path / "first.h5")
    live_desk.finish()
    at.until(lambda: panel.verdict.text() == "Recovered" and panel.run.text() == "first.h5")
    at.until(lambda: "image of 0.03 s" in at.messages())
    at.click(panel.follow)
    request = ScanRequest(tmp_path / "second.h5", at.bench.profile)
    at.until(lambda: at.window.owner.give(orders.scan(request)))
    at.until(lambda: panel.verdict.text() == "Not followed" and panel.run.text() == "second.h5")
    assert panel.numbers["Frames"].text() == "–"
    assert panel.exposures == {}
    at.until(lambda: at.bench.run.path.name == "second.h5" and not at.bench.run.running and at.bench.idle)
    at.window.open_recording(tmp_path / "first.h5")
    at.until(lambda: panel.verdict.text() == "No run is followed")
    assert panel.run.text() == ""


def test_the_mouse_wheel_changes_nothing_on_its_way_over_the_panel(live_desk):
    panel = live_desk.panel
    live_desk.desk.window.show_panel("guest-0")
    panel.until.click()
    live_desk.desk.until(panel.sigma.isVisible)
    for field, value in ((panel.sigma, panel.sigma.value), (panel.decoder, panel.decoder.currentText)):
        field.setFocus()
        before = value()
        for delta in (120, -120, -240):
            place = QPointF(field.rect().center())
            everywhere = QPointF(field.mapToGlobal(field.rect().center()))
            event = QWheelEvent(
                place, everywhere, QPoint(), QPoint(0, delta), Qt.NoButton, Qt.NoModifier, Qt.NoScrollPhase, False
            )
            QApplication.sendEvent(field, event)
            assert value() == before
            assert not event.isAccepted()
    assert panel.pose.focusPolicy() == panel.sigma.focusPolicy() == Qt.StrongFocus
    assert type(panel.pose) is type(panel.decoder)


def test_only_decoders_that_the_live_engine_takes_are_offered(live_desk):
    box = live_desk.panel.decoder
    offered = [box.itemText(row) for row in range(1, box.count())]
    assert offered == installed_packages(1)
    assert set(installed_packages(2)).isdisjoint(offered)
    assert installed_packages(2)
