"""Puts what a worker found into its run, once the recorder has closed the file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.acquire.plan import Plan
from app.errors import known_message
from app.worker.message import Calibrated, Estimate, ToWindow
from app.worker.source import Source
from recon.dataset import DatasetError
from recon.files.read import open_run
from recon.files.results import StoredCalibration, store_calibration, store_result

TRIES = 25
"""A file that somebody has open is tried again so often, a few times a second."""
ARRAYS = (
    *("image", "deviation", "spread", "decoder_mean", "mode", "modes", "samples", "parameters"),
    *("latent", "frame_scores", "pose", "pose_sigma"),
)


@dataclass
class _Run:
    source: Source
    path: Path
    plan: Plan
    waiting: dict[object, Calibrated | Estimate | dict[str, Any]] = field(default_factory=dict)
    judged: bool = False
    tries: int = 0


class Keeper:
    """See above. `watch` from any thread, the rest in the link's.

    Args:
        say: told what was stored; complain: what could not be.
        dose: of a run that is over, what its file is to say of the dose; for its identity.
    """

    def __init__(
        self, say: Callable[[str], None], complain: Callable[[str], None], dose: Callable[[str], dict[str, Any] | None]
    ):
        self._say, self._complain, self._dose = say, complain, dose
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._storing = False

    def watch(self, source: Source | None, path: Path) -> None:
        """Results of this run are kept from now on; with None, of none."""
        with self._lock:
            self._run = None if source is None else _Run(source, path, Plan.from_json(source.begin.plan))

    @property
    def kept(self) -> tuple[Path | None, bool]:
        """The file of the run whose results are kept, and whether one that has come is not stored yet."""
        with self._lock:
            run = self._run
            return (None, False) if run is None else (run.path, bool(run.waiting))

    @property
    def waiting(self) -> bool:
        """Whether something of the run is still to be stored, as far as it is known by now."""
        with self._lock:
            run = self._run
            return run is not None and (bool(run.waiting) or self._storing or not run.judged)

    def forget_images(self) -> None:
        """Images that wait were made with settings that nobody wants any more."""
        with self._lock:
            if self._run is not None:
                for key in [key for key, own in self._run.waiting.items() if isinstance(own, Estimate)]:
                    del self._run.waiting[key]

    def heard(self, message: ToWindow) -> None:
        """A calibration and final images are to be stored."""
        with self._lock:
            run = self._run
            if run is None or getattr(message, "run", None) != run.source.begin.run:
                return
            if isinstance(message, Calibrated):
                run.waiting["calibration"] = message
            elif isinstance(message, Estimate) and message.final:
                run.waiting[message.exposure_s] = message

    def idle(self) -> None:
        """Store what waits, if the run is over."""
        with self._lock:
            run = self._run
            if run is None or not run.source.ended:
                return
            if not run.judged:
                run.judged = True
                values = self._dose(run.source.begin.run)
                if values is not None:
                    run.waiting["dose"] = values
            if not run.waiting:
                return
            waiting, run.waiting = dict(run.waiting), {}
            self._storing = True
        try:
            for message in waiting.values():
                self._store(run, message)
        except Exception as error:
            # A full disk, a file in use, a result that makes no sense: none of them ends the line to the worker.
            run.tries += 1
            if run.tries < TRIES and self._run is run:
                with self._lock:
                    run.waiting = waiting | run.waiting
            else:
                words = known_message(error) or f"{type(error).__name__}: {error}"
                self._complain(f"reconstruction: results are shown but not stored: {words}")
            return
        finally:
            self._storing = False
        run.tries = 0
        names = ", ".join(key if isinstance(key, str) else f"image of {key:g} s" for key in waiting)
        self._say(f"reconstruction: stored in {run.path.name}: {names}")

    def _store(self, run: _Run, message: Calibrated | Estimate | dict[str, Any]) -> None:
        if isinstance(message, dict):
            store_result(run.path, 1, {}, message, name="enough_light")
            return
        if isinstance(message, Calibrated):
            with open_run(run.path) as file:
                visits, times = file.visits(1), file.times(1)
            if not np.array_equal(message.times, times):
                raise DatasetError(
                    f"{run.path}: points were taken again after its calibration began; "
                    f"run `ptychoscope calibrate {run.path}`"
                )
            stored = StoredCalibration(
                probe=message.probe,
                probe_pixel_m=message.pixel_m,
                object=message.object,
                object_pixel_m=message.pixel_m,
                distance_m=message.distance_m,
                positions_m=message.positions_m,
                loss=message.loss,
                settings=json.loads(message.settings),
                software=json.loads(message.software),
                visits=visits,
            )
            store_calibration(run.path, stored)
            return
        entry = 2 + run.plan.evaluation_exposures_s.index(message.exposure_s)
        arrays = {name: getattr(message, name) for name in ARRAYS}
        store_result(run.path, entry, arrays, json.loads(message.numbers), name="reconstruction_latent")
