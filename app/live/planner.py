"""What a scan would be, computed while somebody still types: a thread of its own, the newest request wins."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from app.acquire import fermat
from app.acquire.plan import Plan
from app.acquire.planning import PlanCost, make_low_dose_plan, make_plan, plan_cost
from app.acquire.scan import data_bytes
from app.errors import known_message
from app.live.orders import ScanRequest
from app.live.slot import Slot
from app.profile import Profile
from drivers.base import StageInfo
from drivers.clock import Clock
from recon.files.reuse import Source


@dataclass(frozen=True)
class Ask:
    """What is to be planned.

    Attributes:
        request: the scan.
        known: its profile with everything measured in place of what it assumes.
        stage: the connected one, for times; None where there is none.
    """

    request: ScanRequest
    known: Profile
    stage: StageInfo | None


@dataclass(frozen=True)
class Planned:
    """What it would be.

    Attributes:
        ask: what was asked.
        plan: None where none can be made.
        cost: None without a stage.
        overlaps: of all points; None for fewer than two.
        size: bytes of the file.
        error: why there is no plan; "".
    """

    ask: Ask
    plan: Plan | None = None
    cost: PlanCost | None = None
    overlaps: fermat.Overlaps | None = None
    size: int = 0
    error: str = ""


def planned(ask: Ask) -> Planned:
    """The plan of a request and what it costs."""
    request, known = ask.request, ask.known
    try:
        if request.calibration is None:
            plan = make_plan(known, request.darks is None)
            if request.lent is not None:
                Source.of(request.lent)
        else:
            Source.of(request.calibration)
            plan = make_low_dose_plan(known, darks=request.darks is None, empty=request.empty, passes=request.passes)
    except Exception as error:
        words = known_message(error)
        if words is None:
            raise
        return Planned(ask, error=words)
    reused = 0 if request.darks is None else len(plan.exposures_s)
    return Planned(
        ask,
        plan,
        None if ask.stage is None else plan_cost(plan, ask.stage, known),
        fermat.overlaps(np.array(plan.positions_m), known.geometry.pinhole_diameter_m),
        data_bytes(plan, known, reused),
    )


class Planner:
    """`start` it once, `end` it once; `ask` from any thread.

    Attributes:
        answers: the newest `Planned`.
    """

    def __init__(self, clock: Clock):
        self.answers: Slot[Planned] = Slot(clock)
        self._wake = threading.Condition()
        self._ask: Ask | None = None
        self._done = False
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """The thread ends after the plan that it is making; nobody waits for that."""
        with self._wake:
            self._done = True
            self._wake.notify_all()

    def ask(self, ask: Ask) -> None:
        """Plan this next, and nothing that was asked before."""
        with self._wake:
            self._ask = ask
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._ask is None and not self._done:
                    self._wake.wait()
                if self._done:
                    return
                ask, self._ask = self._ask, None
            assert ask is not None
            self.answers.put(planned(ask))
