"""A window's reconstruction: one link to a worker, what it follows, what is shown of it and what is kept."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.acquire.observer import Enough
from app.acquire.plan import Plan, Stream
from app.errors import known_message
from app.live.journal import Journal
from app.live.owner import DeviceOwner
from app.replaying import Replay
from app.worker.enough import Dose, Target, gains_of
from app.worker.follow import Follower
from app.worker.keeper import Keeper
from app.worker.keys import ClientKeys
from app.worker.link import Link, LinkStatus
from app.worker.message import Choose, Estimate, Frame, Key, Said, ToWindow
from app.worker.place import OwnWorker, Worker
from app.worker.source import RecordedSource, Source, exposed_s
from app.worker.view import Shown, looked
from simulators.replay import Playhead


class ReplaySource(RecordedSource):
    """A run that is shown again: frames are there as far as the playhead has ever been.

    Raises what `RecordedSource` raises.
    """

    def __init__(self, path: Path, playhead: Playhead):
        super().__init__(path)
        self._playhead = playhead
        self._reached = 0

    def fresh(self) -> tuple[list[Frame], Key]:
        self._reached = max(self._reached, self._playhead.number)
        return [], self.committed

    def _shown(self) -> Key:
        step, repeat = self.order[self._reached]
        return step, repeat + 1

    @property
    def committed(self) -> Key:
        return self._committed if self._whole else self._shown()

    @property
    def ended(self) -> str:
        return super().ended if self._whole else ""

    @property
    def exposed_s(self) -> float:
        return super().exposed_s if self._whole else exposed_s(self.plan, self._shown(), self.left_out)

    @property
    def _whole(self) -> bool:
        return self._reached >= self._playhead.count - 1


class Live:
    """See above. `join` it to a window's devices, `end` it with the window.

    Args:
        worker: where it computes; None starts a process here.
        keys: for a worker beyond this machine.
        wanted: whether runs are followed.

    Attributes:
        target: when a low-dose scan has had enough light; None: when its plan is done. Set from any thread.
        failed: what the worker could not do for the run it follows, or "".
        heard: results so far.
        shown: what there is to see; for the window's thread, after `gather`.
    """

    def __init__(self, worker: Worker | None = None, keys: ClientKeys | None = None, wanted: bool = True):
        self._journal: Journal | None = None
        self.worker = worker or OwnWorker()
        if isinstance(self.worker, OwnWorker):
            self.worker.say = self._warn
        self._keeper = Keeper(self._say, self._complain, self._dose_values)
        self.link = Link(self.worker, keys, self._hear, self._complain, self._idle)
        self.follower = Follower(
            self._follow,
            lambda: self.choice if self.wanted else None,
            self._warn,
            self._judge,
            self._ahead,
            self._missed,
        )
        self.target: Target | None = None
        # By run and exposure, the newest last: numbers of an image, and how many frames it has.
        self._judged: dict[tuple[str, float], tuple[dict[str, Any], int]] = {}
        self._reached: dict[str, Enough] = {}
        # What one more frame would tell, by exposure and point, of the run that is followed.
        self._gains: dict[str, dict[float, dict[int, float]]] = {}
        self.failed = ""
        self._complained = ""
        self.heard = 0
        self._frames: dict[tuple[str, float], tuple[int, bool]] = {}
        self.choice = Choose("")
        self.wanted = wanted
        self.shown: Shown | None = None
        self._lock = threading.Lock()
        # Whether there is to be a worker is decided by one at a time.
        self._wish = threading.Lock()
        # What is to be shown from the next `gather` on: nothing at all first, then another run.
        self._cleared = False
        self._next: Shown | None = None
        self._source: Source | None = None
        self._plan: Plan | None = None
        self._dosed: Key | None = None

    def join(self, owner: DeviceOwner) -> None:
        """Follow the runs of these devices."""
        owner.listeners.append(self.follower)
        owner.at_connecting.append(self._clear)
        # A window gathers what comes; without one it would only pile up.
        self.link.gathered = True
        self.begin(owner.journal)

    def begin(self, journal: Journal) -> None:
        """Be ready for runs; what happens goes into the journal."""
        self._journal = journal
        self.link.start()
        self.link.want(self.wanted)

    def seen(self, step: int) -> bool:
        """Whether all frames before a step of the plan are in the file and in an image."""
        with self._lock:
            source = self._source
        return source is not None and source.committed >= (step, 0) and self._imaged(step, final=False)

    @property
    def settled(self) -> bool:
        """Whether nothing of the run that has ended is still to be computed or stored."""
        with self._lock:
            source = self._source
        if source is None or not source.ended:
            return False
        return self._imaged(source.committed[0], final=True) and not self._keeper.waiting

    def _imaged(self, step: int, final: bool) -> bool:
        with self._lock:
            source, plan, frames = self._source, self._plan, dict(self._frames)
        assert source is not None
        assert plan is not None
        taken: dict[float, int] = {}
        for own in plan.steps[:step]:
            if own.stream is Stream.EVALUATION and own.number not in source.left_out:
                taken[own.exposure_s] = taken.get(own.exposure_s, 0) + own.repeats
        held = {exposure: frames.get((source.begin.run, exposure), (0, False)) for exposure in taken}
        return all(held[e][0] >= count and (held[e][1] or not final) for e, count in taken.items())

    def end(self, patience_s: float = 0.0) -> None:
        """Let worker and threads go; what has come by now is stored, which is waited for so long."""
        self.link.end()
        if patience_s > 0 and self.link.alive:
            self.link.join(patience_s)

    @property
    def status(self) -> LinkStatus:
        return self.link.status

    # ---- From the window's thread ------------------------------------------------------------------------------------

    def follow(self, wanted: bool) -> None:
        """Reconstruct runs that begin from now on, or none: a worker that has nothing to do ends then."""
        self.wanted = wanted
        self.link.want(wanted or self._busy)

    def look_ahead(self) -> None:
        """From the next run on images say what one more frame at each point would tell, and low-dose scans go by it."""
        self.choice = replace(self.choice, ahead=True)

    def choose(self, decoder: str, pose: str) -> None:
        """Reconstruct with other settings from now on, what is shown as well."""
        choice = Choose("", decoder, pose, ahead=self.choice.ahead)
        if choice == self.choice:
            return
        self.choice = choice
        with self._lock:
            # What another decoder said of its image ends no scan.
            self._judged, self._frames, self._gains = {}, {}, {}
            self._complained = ""
            source = self._source
        self._keeper.forget_images()
        if self.shown is not None and self.shown.followed:
            self.shown.forget_images()
            if source is not None and source.begin.run == self.shown.run:
                self.shown.look = self._look(source)
        self.link.choose(choice)
        self.link.want(self.wanted or source is not None)

    def again(self, replay: Replay) -> None:
        """Reconstruct a run that is shown again, as far as it has been shown."""

        def read() -> None:
            # A file of many frames takes its time to open.
            try:
                source = ReplaySource(replay.recorded.path, replay.playhead)
            except Exception as error:
                self._complain(f"reconstruction: {known_message(error) or error}")
                return
            self._drop()
            self._keeper.watch(None, replay.recorded.path)
            self._watch(source)

        self.link.want(True)
        threading.Thread(target=read, name="open a run", daemon=True).start()

    def gather(self) -> bool:
        """Take in what has come; whether anything is new."""
        # First what has come: a run whose results are there has been announced by then.
        messages = []
        while not self.link.results.empty():
            messages.append(self.link.results.get_nowait())
        with self._lock:
            following, self._next = self._next, None
            cleared, self._cleared = self._cleared, False
        if cleared:
            self.shown = self._dosed = None
        if following is not None:
            self.shown, self._dosed = following, None
        source = self._source
        if self.shown is not None and source is not None and source.committed != self._dosed:
            self._dosed, self.shown.dose = source.committed, self._dose(self.shown.run)
        taken = [self.shown.take(message) for message in messages] if self.shown is not None else []
        return cleared or following is not None or any(taken)

    # ---- From other threads ------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """Another bench: what is shown is of the one before. It is still computed and stored."""
        with self._lock:
            self._next, self._cleared = None, True

    def _missed(self, path: Path, why: str) -> None:
        """A run begins that nobody follows: nothing of the one before may stand for it."""
        with self._lock:
            self._next = Shown.missed(path.name, why)
        if self.target is not None:
            self._warn(f"scan: enough light cannot be told of {path.name}, {why}; all that is planned is taken")

    def _drop(self, path: Path | None = None) -> None:
        """Say what is lost of the run before, as another one takes its place, which may go on with the same file."""
        before, stored = self._keeper.kept
        with self._lock:
            source = self._source
        if before is None or source is None or before == path:
            return
        if stored or not self._imaged(source.committed[0], final=True):
            self._complain(f"{before.name}: its images were not finished; `ptychoscope reconstruct {before}`")

    def _follow(self, source: Source, path: Path) -> None:
        self._drop(path)
        self._keeper.watch(source, path)
        self._watch(source)

    def _watch(self, source: Source) -> None:
        plan = Plan.from_json(source.begin.plan)
        look = self._look(source)
        with self._wish:
            with self._lock:
                self._source, self._plan, self.failed = source, plan, ""
                self._next = Shown(source.begin.run, plan.evaluation_exposures_s, look=look, name=source.begin.name)
            self.link.watch(source, self.choice)
            self.link.want(True)
        if self.target is not None and not source.begin.reuses and not source.begin.lent and not source.ended:
            self._warn(
                "scan: enough light cannot be told: a single-trajectory scan has its calibration only after its bright "
                "frames; give it an earlier run's, or take the whole series"
            )

    def _look(self, source: Source) -> tuple[str, str]:
        """Decoder and pose with which images of a run are wanted."""
        decoder = self.choice.decoder or json.loads(source.begin.profile)["reconstruction"]["decoder"]
        return decoder, self.choice.pose

    @property
    def _busy(self) -> bool:
        """Whether a run is followed of which something is still to come."""
        with self._lock:
            source = self._source
        return source is not None and not (source.ended and (bool(self.failed) or self.settled))

    def _idle(self) -> None:
        self._keeper.idle()
        with self._wish:
            if not self.wanted and not self._busy:
                # Nobody wants it and it has nothing to do.
                self.link.want(False)

    def _hear(self, message: ToWindow) -> None:
        self.heard += 1
        if isinstance(message, Estimate):
            with self._lock:
                source = self._source
            if source is None or source.begin.run != message.run or self._look(source) != looked(message):
                return
        self._keeper.heard(message)
        if isinstance(message, Said) and message.bad:
            with self._lock:
                source = self._source
                fresh = False
                if source is not None and source.begin.run == message.run:
                    self.failed = f"{message.what}: {message.words}"
                    fresh, self._complained = self._complained != message.run, message.run
            if source is not None and fresh:
                self._complain(f"reconstruction: {source.begin.name}: {message.what}: {message.words}")
        if isinstance(message, Estimate):
            numbers = json.loads(message.numbers)
            with self._lock:
                key = (message.run, message.exposure_s)
                self._judged.pop(key, None)
                self._judged[key] = (numbers if isinstance(numbers, dict) else {}, message.frames)
                self._frames[message.run, message.exposure_s] = (message.frames, message.final)
                if isinstance(numbers, dict) and (gains := gains_of(numbers)):
                    own = self._gains.get(message.run, {})
                    self._gains = {message.run: own | {message.exposure_s: gains}}

    def _judge(self, run: str) -> Enough | None:
        """Which light a run does not need any more.

        The newest image ends a low-dose scan. Else each exposure stands for itself, and for the longer ones.
        """
        target = self.target
        with self._lock:
            judged = [(e, *of) for (own, e), of in self._judged.items() if own == run]
            plan = self._plan
        if target is None or plan is None or not judged:
            return None
        found = None
        if plan.low_dose:
            _, numbers, frames = judged[-1]
            if reason := target.reached(numbers, frames):
                found = Enough(0.0, reason)
        else:
            for exposure, numbers, frames in sorted(judged, key=lambda one: one[0]):
                if reason := target.reached(numbers, frames):
                    found = Enough(exposure, f"{exposure:g} s is enough, {reason}")
                    break
        if found is not None and self._reached.get(run) != found:
            self._reached = {run: found}
            self._say(f"scan: enough light: {found.reason}")
        return found

    def _ahead(self, run: str, points: tuple[int, ...]) -> int | None:
        """Which of these points would tell most, by the image of the longest exposure; None where no image says so."""
        with self._lock:
            gains = self._gains.get(run, {})
        if not gains:
            return None
        known = gains[max(gains)]
        told = [point for point in points if point in known]
        return max(told, key=lambda point: known[point]) if told else None

    def _dose(self, run: str) -> Dose | None:
        with self._lock:
            source, plan = self._source, self._plan
        if source is None or plan is None or source.begin.run != run:
            return None
        if not plan.low_dose and not source.begin.lent and not source.left_out:
            return None
        rate = json.loads(source.begin.profile)["light"]["photons_per_second"]
        return Dose.of(plan, source, rate)

    def _dose_values(self, run: str) -> dict[str, Any] | None:
        """What a run whose light was judged keeps of its dose."""
        dose = self._dose(run)
        if dose is None:
            return None
        return {
            "photons_spent": dose.spent,
            "photons_planned": dose.planned,
            "share_saved": dose.saved,
            "target_sigma": None if self.target is None else self.target.sigma,
            "reached": self._reached[run].reason if run in self._reached else "",
            "left_out": {f"{exposure:g}": frames for exposure, frames in sorted(dose.left_out.items())},
        }

    def _say(self, words: str) -> None:
        if self._journal is not None:
            self._journal.info(words)

    def _warn(self, words: str) -> None:
        if self._journal is not None:
            self._journal.warning(words)

    def _complain(self, words: str) -> None:
        if self._journal is not None:
            self._journal.error(words)
