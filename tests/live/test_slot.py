import threading
import time

from app.acquire.observer import SilentObserver
from app.live.slot import Slot, SlotObserver
from drivers.clock import SystemClock, VirtualClock
from tests.acquire.fakes import FakeBench


def test_the_latest_wins_and_what_was_missed_is_counted():
    clock = VirtualClock()
    slot = Slot[str](clock)
    assert slot.newest() is None
    slot.put("a")
    clock.sleep(0.5)
    first = slot.newest()
    assert (first.item, first.number, first.age_s, first.skipped) == ("a", 1, 0.5, 0)
    assert slot.newest(first.number) is None
    for item in "bcd":
        slot.put(item)
    latest = slot.newest(first.number)
    assert (latest.item, latest.number, latest.age_s, latest.skipped) == ("d", 4, 0.0, 2)
    # Another viewer, which has seen nothing yet, is not disturbed by the first.
    assert slot.newest().skipped == 3


def test_viewers_see_ascending_numbers_and_lose_no_count():
    slot = Slot[int](SystemClock())
    problems, done = [], threading.Event()

    def view():
        seen = counted = 0
        while not done.is_set() or slot.newest(seen) is not None:
            latest = slot.newest(seen)
            if latest is not None:
                if latest.number <= seen or latest.item != latest.number:
                    problems.append((seen, latest))
                counted += latest.skipped + 1
                seen = latest.number
        if counted != 20000:
            problems.append(counted)

    viewers = [threading.Thread(target=view) for _ in range(3)]
    for viewer in viewers:
        viewer.start()
    for number in range(1, 20001):
        slot.put(number)
    done.set()
    for viewer in viewers:
        viewer.join()
    assert problems == []


def test_a_run_shows_its_committed_frames_and_still_tells_its_observer(tmp_path):
    class Counting(SilentObserver):
        states, frames = 0, 0

        def state_changed(self, state):
            self.states += 1

        def frame_committed(self, frame, progress):
            self.frames += 1

    bench = FakeBench()
    slot, counting = Slot(bench.clock), Counting()
    bench.run(tmp_path / "run.h5", SlotObserver(slot, counting))
    latest = slot.newest()
    assert latest.number == bench.plan.frames == counting.frames
    assert counting.states == 3
    assert latest.item.step == bench.plan.steps[-1]


def test_a_viewer_that_hangs_does_not_hold_up_the_run(tmp_path):
    bench = FakeBench()
    slot = Slot(bench.clock)
    release = threading.Event()

    def hang():
        while slot.newest() is None:
            time.sleep(1e-3)
        release.wait(10)

    viewer = threading.Thread(target=hang)
    viewer.start()
    bench.run(tmp_path / "run.h5", SlotObserver(slot, SilentObserver()))
    assert viewer.is_alive()
    release.set()
    viewer.join()
