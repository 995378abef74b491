"""A run in progress as a worker hears of it: frames as they are committed, kept in a bounded memory, never waited for.

What has left the memory is read from the file when the run has ended; before, the recorder alone has it open.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from app.acquire import frame as taken
from app.acquire.observer import Enough, Observer, Progress, RunState
from app.acquire.plan import Stream
from app.acquire.scan import Scan, camera_record
from app.worker.message import Begin, Calibrated, Carried, Choose, Darks, Frame, Key
from app.worker.source import SAMPLE, RecordedSource, Source, carried, darks_of, exposed_s, superseded_s
from recon.dataset import DatasetError
from recon.files.dark_sets import read_dark_set
from recon.files.darks import DarkSummary
from recon.files.read import open_run
from recon.files.reuse import Source as CalibrationSource

MEMORY_BYTES = 1 << 30
"""Of frames that are held for a worker that asks for them again: more than a whole run of the paper."""
OVER = (RunState.COMPLETED, RunState.ABORTED, RunState.FAILED)


class RunningSource:
    """See above. Implements `app.worker.source.Source` and watches the run; observers' calls are quick.

    Args:
        scan: that is about to run, its devices open.
        memory_bytes: of frames.
        judge: says of the run with this identity which light it does not need any more.
        say: told when a frame cannot be passed on.
        ahead: says of that run which of the points that are still to be visited would tell most; None: nobody knows.

    Raises:
        DatasetError: a run that is to be completed cannot be read.
    """

    def __init__(
        self,
        scan: Scan,
        memory_bytes: int = MEMORY_BYTES,
        judge: Callable[[str], Enough | None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
        ahead: Callable[[str, tuple[int, ...]], int | None] = lambda _, points: None,
    ):
        self._judge, self._say, self._ahead = judge, say, ahead
        self._failed = self._misjudged = False
        profile, measured = scan.profile, scan.measured
        known = profile if measured is None else measured.content.applied_to(profile)
        info = scan.devices.camera.info
        camera = camera_record(profile, info, measured)
        self._path = scan.path
        self._darks_path = scan.darks
        given = scan.calibration or scan.lent
        self._calibration: Path | None = None if given is None else Path(given.path)
        self._plan = scan.plan
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, Frame] = OrderedDict()
        self._fresh: deque[Frame] = deque()
        self._bytes, self._most = 0, memory_bytes
        self._darks: dict[float, DarkSummary] = {}
        self._committed: Key = (0, 0)
        self._left_out: tuple[int, ...] = ()
        self._exposed_s = 0.0
        self._ended = ""
        self._file: Source | None = None
        if scan.resume:
            self._earlier(scan.path)
        self.begin = Begin(
            run=uuid.uuid4().hex,
            name=scan.path.name,
            plan=scan.plan.to_json(),
            profile=profile.model_dump_json(),
            wavelength_m=profile.geometry.wavelength_m,
            distance_m=profile.geometry.distance_m,
            pixel_size_m=info.pixel_size_m,
            shape=info.shape,
            illumination_m=profile.geometry.pinhole_diameter_m,
            electrons_per_adu=camera.electrons_per_adu,
            saturation_adu=camera.saturation_adu,
            quantum_efficiency=camera.quantum_efficiency,
            exposure_offset_s=camera.exposure_offset_s,
            stage_to_object=known.stage.stage_to_object,
            centre_m=known.stage.centre_m,
            reuses=scan.plan.low_dose,
            lent=scan.lent is not None,
        )

    def _earlier(self, path: Path) -> None:
        """What a run that is completed now holds from before: read here, from now on the recorder has the file."""
        with open_run(path) as run:
            self._committed = (run.steps_committed, run.repeats_committed)
            self._left_out = tuple(s.number for s in self._plan.left_out(self._committed[0], run.series_committed))
            self._exposed_s = exposed_s(self._plan, self._committed, self._left_out) + superseded_s(self._plan, run)
            if run.calibration_source:
                self._calibration = Path(CalibrationSource.from_json(run.calibration_source).path)
        # A run that was interrupted in its first darks has none.
        with contextlib.suppress(DatasetError):
            self._darks = dict(read_dark_set(path).darks)

    # ---- Watching the run --------------------------------------------------------------------------------------------

    def state_changed(self, state: RunState) -> None:
        if state in OVER:
            self._ended = state.value

    def frame_committed(self, frame: taken.Frame, progress: Progress) -> None:
        # Nothing that goes wrong here may fail the run.
        try:
            self._take(frame)
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._say(f"reconstruction: a frame cannot be passed on: {' '.join(str(error).split())}")

    def _take(self, frame: taken.Frame) -> None:
        step = frame.step
        after = (step.number + 1, 0) if frame.last else (step.number, frame.repeat + 1)
        with self._lock:
            if step.stream is not Stream.DARK:
                self._keep(self._message(frame))
            # What is jumped over was left out; frames of before are of a point that is taken again.
            jumped = self._plan.steps[self._committed[0] : step.number]
            self._left_out += tuple(own.number for own in jumped if own.stream is Stream.EVALUATION)
            self._left_out = tuple(number for number in self._left_out if number != step.number)
            if step.stream in SAMPLE:
                self._exposed_s += step.exposure_s
            self._committed = max(self._committed, after)

    def darks_committed(self, exposure_s: float, darks: DarkSummary) -> None:
        with self._lock:
            self._darks[exposure_s] = darks

    def enough(self, step: int) -> Enough | None:
        # Whatever goes wrong with the judgement, the scan takes what was planned.
        try:
            return self._judge(self.begin.run)
        except Exception as error:
            if not self._misjudged:
                self._misjudged = True
                self._say(f"scan: nobody can say when it is enough: {' '.join(str(error).split())}")
            return None

    def next_point(self, step: int, points: tuple[int, ...]) -> int | None:
        return self._ahead(self.begin.run, points)

    def _message(self, frame: taken.Frame) -> Frame:
        step, readback = frame.step, frame.readback
        return Frame(
            run=self.begin.run,
            stream=step.stream.value,
            step=step.number,
            repeat=frame.repeat,
            position_index=step.position_index,
            asked_exposure_s=step.exposure_s,
            exposure_s=frame.exposure.exposure_s,
            time=frame.exposure.time,
            readback_m=None if readback is None else readback.as_tuple(),
            image=frame.exposure.image,
        )

    def _keep(self, frame: Frame) -> None:
        key = (frame.step, frame.repeat)
        old = self._held.pop(key, None)
        self._bytes += frame.image.nbytes - (0 if old is None else old.image.nbytes)
        self._held[key] = frame
        self._fresh.append(frame)
        while self._bytes > self._most and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            self._bytes -= gone.image.nbytes
            if self._fresh and self._fresh[0] is gone:
                self._fresh.popleft()

    # ---- For the link ------------------------------------------------------------------------------------------------

    @property
    def committed(self) -> Key:
        return self._committed

    @property
    def ended(self) -> str:
        return self._ended

    @property
    def left_out(self) -> tuple[int, ...]:
        with self._lock:
            return self._left_out

    @property
    def exposed_s(self) -> float:
        return self._exposed_s

    def fresh(self) -> tuple[list[Frame], Key]:
        with self._lock:
            frames = list(self._fresh)
            self._fresh.clear()
            return frames, self._committed

    def carried(self) -> Carried | None:
        return None if self._calibration is None else carried(self.begin.run, self._calibration)

    def calibrated(self) -> Calibrated | None:
        return None

    def darks(self, exposure_s: float) -> Darks | None:
        if self._darks_path is not None and not self._darks:
            held = dict(read_dark_set(self._darks_path).darks)
            with self._lock:
                self._darks = held | self._darks
        with self._lock:
            return darks_of(self.begin.run, exposure_s, dict(self._darks))

    def frames(self, keys: Sequence[Key]) -> list[Frame]:
        with self._lock:
            found = [self._held[key] for key in keys if key in self._held]
        gone = [key for key in keys if key not in {(frame.step, frame.repeat) for frame in found}]
        if gone and self._ended:
            if self._file is None:
                self._file = RecordedSource(self._path, self.begin.run)
            found += self._file.frames(gone)
        return found


class Follower:
    """Lets a link follow every run that begins. Implements `app.live.order.RunListener`.

    Args:
        watch: is given the run.
        choice: how it is to be reconstructed.
        say: told why a run cannot be followed.
        judge, ahead: see `RunningSource`.
        missed: told of a run that is not followed, and why.
    """

    def __init__(
        self,
        watch: Callable[[Source, Path], None],
        choice: Callable[[], Choose | None],
        say: Callable[[str], None],
        judge: Callable[[str], Enough | None] = lambda _: None,
        ahead: Callable[[str, tuple[int, ...]], int | None] = lambda _, points: None,
        missed: Callable[[Path, str], None] = lambda path, why: None,
    ):
        self._watch, self._choice, self._say, self._judge, self._ahead = watch, choice, say, judge, ahead
        self._missed = missed

    def run_begins(self, scan: Scan) -> Observer | None:
        if self._choice() is None:
            self._missed(scan.path, "Live was off when it began")
            return None
        try:
            source = RunningSource(scan, judge=self._judge, say=self._say, ahead=self._ahead)
        except Exception as error:
            # Whatever it is, the scan goes on; what matters to it it says itself.
            words = " ".join(str(error).split())
            self._say(f"reconstruction: cannot follow this run: {words}")
            self._missed(scan.path, f"it cannot be followed: {words}")
            return None
        self._watch(source, scan.path)
        return source
