"""How fast the Thorlabs driver stops, what a move costs beyond motion and settling, and what opening leaves behind.

    python -m benchmarks.stage_latency [--cycles 1000] [--write]

The driver and the real library talk to emulated controllers (`simulators.apt_wire`) on pseudo-terminals, at the motors'
programmed speed, each message taking 0.3 ms and its time on a line of 115200 baud, polled about ninety times a second
while the controllers stream ten updates a second of their own.
A stop is timed twice: until its bytes have been obeyed by the last axis's controller, and until both axes stand (which
is braking at 1 mm/s^2, so 1.5 s from full speed, unless the stop is immediate). A move's overhead is what it takes
beyond the computed motion, median and worst. `--write` appends the result to RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import append_rows, machine
from drivers.apt_settings import ThorlabsSettings
from drivers.base import Cancelled, StagePosition
from drivers.thorlabs import ThorlabsStage
from simulators.apt_protocol import Id
from simulators.apt_wire import AptWire
from simulators.carriage import Carriage, StageSettings

LIMITS = (0.5e-3, 24.5e-3)
STOP_CLAIM_MS = 50.0
MOVE_CLAIM_MS = 15.0
STOPS = 40
MOVES = 40


@contextmanager
def stage_on_wire(controller: str, speed: float, **options: object) -> Iterator[tuple[ThorlabsStage, AptWire]]:
    """A homed stage, both axes in the middle."""
    carriage = Carriage(StageSettings(LIMITS, LIMITS, (12.5e-3, 12.5e-3)), 0)
    with AptWire(carriage, controller, speed=speed) as wire:  # type: ignore[arg-type]
        stage = ThorlabsStage(ThorlabsSettings(LIMITS, LIMITS, wire.ports, controller, settling_s=0.0, **options))  # type: ignore[arg-type]
        for axis in (0, 1):
            carriage.turn(axis, -int(carriage.zero[axis]))
            carriage.reference(axis)
            wire.motor(axis).homed = True
            carriage.turn(axis, round(12.5e-3 / carriage.step_m))
        stage.open()
        try:
            yield stage, wire
        finally:
            stage.close()


def stop_latencies(controller: str, immediate: bool) -> tuple[list[float], list[float]]:
    """Milliseconds from the call of stop to its bytes obeyed by both axes, and to both standing."""
    obeyed, standing = [], []
    with stage_on_wire(controller, 1.0, immediate_stop=immediate) as (stage, wire):
        for k in range(STOPS):
            target = StagePosition(20e-3, 20e-3) if k % 2 else StagePosition(5e-3, 5e-3)
            mover = threading.Thread(target=_until_cancelled, args=(stage, target))
            mover.start()
            while not (wire.motor(0).moving and wire.motor(1).moving):
                time.sleep(0.001)
            time.sleep(0.15 + 0.0037 * (k % 10))
            wire.stream()
            wire.heard.clear()
            begin = time.monotonic()
            stage.stop()
            while wire.motor(0).moving or wire.motor(1).moving:
                time.sleep(0.0005)
            standing.append(1e3 * (time.monotonic() - begin))
            first = {heard.axis: heard.time for heard in reversed(wire.messages(Id.MOVE_STOP))}
            obeyed.append(1e3 * (max(first.values()) - begin))
            mover.join()
    return obeyed, standing


def move_overheads(controller: str) -> list[float]:
    """Milliseconds that a step of 60 um takes beyond its motion; settling is set to nothing."""
    overheads = []
    with stage_on_wire(controller, 1.0) as (stage, _):
        here = stage.move_to(StagePosition(12e-3, 12e-3))
        for k in range(MOVES):
            target = StagePosition(12e-3 + 60e-6 * (k + 1), 12e-3 + 40e-6 * (k + 1))
            begin = time.monotonic()
            there = stage.move_to(target)
            overheads.append(1e3 * (time.monotonic() - begin - stage.info.move_duration_s(here, there)))
            here = there
    return overheads


def open_close(controller: str, cycles: int) -> tuple[tuple[int, int, float], tuple[int, int, float], float]:
    """(threads, files, resident MB) before and after so many cycles, and the seconds that one takes."""
    carriage = Carriage(StageSettings(LIMITS, LIMITS, (12.5e-3, 12.5e-3)), 0)
    with AptWire(carriage, controller) as wire:  # type: ignore[arg-type]
        stage = ThorlabsStage(ThorlabsSettings(LIMITS, LIMITS, wire.ports, controller))  # type: ignore[arg-type]
        for _ in range(20):
            stage.open()
            stage.close()
        before, begin = _resources(), time.monotonic()
        for _ in range(cycles):
            stage.open()
            stage.close()
        return before, _resources(), (time.monotonic() - begin) / cycles


def _until_cancelled(stage: ThorlabsStage, target: StagePosition) -> None:
    try:
        stage.move_to(target)
    except Cancelled:
        return
    raise AssertionError("the move was not stopped")


def _resources() -> tuple[int, int, float]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), pages * 4096 / 1e6


def main() -> int:
    """Print the results; 1 when one exceeds its claim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1000, help="how often to open and close (1000)")
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    arguments = parser.parse_args()
    rows: list[tuple[str, str, str]] = []
    good = True

    def note(quantity: str, measured: str, claim: str = "-") -> None:
        print(f"{quantity}: {measured}   claim {claim}", flush=True)
        rows.append((quantity, measured, claim))

    def spread(values: list[float]) -> str:
        return f"median {statistics.median(values):.3g} ms, worst {max(values):.3g} ms"

    for controller in ("kst101", "bsc203"):
        for immediate in (False, True):
            obeyed, standing = stop_latencies(controller, immediate)
            kind = "immediate" if immediate else "braking"
            good &= max(obeyed) <= STOP_CLAIM_MS
            note(f"{controller}: stop() to its bytes obeyed by both axes, {kind}", spread(obeyed), "within 50 ms")
            note(f"{controller}: stop() to both axes standing, {kind} from about 0.17 mm/s", spread(standing))
        overheads = move_overheads(controller)
        good &= statistics.median(overheads) <= MOVE_CLAIM_MS
        note(f"{controller}: a step of 60 um beyond its motion and settling", spread(overheads), "at most 15 ms")
        before, after, seconds = open_close(controller, arguments.cycles)
        good &= before[:2] == after[:2]
        note(
            f"{controller}: {arguments.cycles} times opened and closed",
            f"threads {before[0]} to {after[0]}, files {before[1]} to {after[1]}, resident {before[2]:.1f} to "
            f"{after[2]:.1f} MB; {1e3 * seconds:.3g} ms a cycle",
            "no thread or file more",
        )
    if arguments.write:
        append_rows("python -m benchmarks.stage_latency", rows, machine("thorlabs-apt-device"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
