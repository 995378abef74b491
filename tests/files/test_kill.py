"""A run is killed before and after every write in turn; each time the file opens, and resumes to the same run."""

import os
import signal
import warnings
from pathlib import Path

import pytest

from app.acquire.scan import Scan
from app.profile import load_profile
from recon.files.read import open_run
from recon.files.write import RunWriter
from tests.acquire.fakes import FakeBench, small_profile
from tests.files.compare import assert_same_measurement

KILLED = 77
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a writer")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """A killed process loses nothing that the system has; waiting for the platter would only make this slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def in_child(action) -> int:
    """Run the action in a forked process; its exit status as `os.waitstatus_to_exitcode` gives it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(count: int):
    """A fault that ends the process at its call number `count`, as a kill does: nothing is flushed or closed."""
    calls = []

    def fault(where: str) -> None:
        calls.append(where)
        if len(calls) == count:
            os._exit(KILLED)

    return fault


def count_calls(profile, path: Path, compression: str) -> int:
    calls = []
    bench = FakeBench(profile)
    bench.runner(lambda: bench.create(path, calls.append, compression)).run()
    return len(calls)


@pytest.mark.parametrize(("compression", "stride"), [("none", 1), ("gzip", 5)])
def test_killed_at_every_write(tmp_path, compression, stride):
    profile = small_profile(positions=2, dark_frames=2, evaluation_exposures_s=(3e-4,))
    whole = tmp_path / "whole.h5"
    calls = count_calls(profile, whole, compression)
    assert calls > 150
    stubs = 0
    for number in range(1, calls + 1, stride):
        path = tmp_path / f"killed{number}.h5"

        def run(path=path, number=number):
            bench = FakeBench(profile)
            bench.runner(lambda: bench.create(path, killed_at(number), compression)).run()

        assert in_child(run) == KILLED
        bench = FakeBench(profile)
        if not path.exists():
            # Killed before the skeleton was safe: nothing has moved, and the name is still free.
            stubs += 1
            bench.runner(lambda path=path, bench=bench: bench.create(path, compression=compression)).run()
        else:
            with open_run(path) as partial:
                committed = [partial.committed(entry) for entry in range(1, partial.entries + 1)]
                steps = partial.steps_committed
                for entry, frames in enumerate(committed, start=1):
                    if frames:
                        assert len(partial.ptychogram(entry)) == frames
            with RunWriter.resume(path, bench.clock) as writer:
                assert writer.steps_committed == steps
            bench.resume(path)
        assert_same_measurement(path, whole)
        path.unlink()
    assert stubs <= 4


def test_killed_while_resuming(tmp_path):
    profile = small_profile(positions=6, dark_frames=2, evaluation_exposures_s=(3e-4,))
    whole, path = tmp_path / "whole.h5", tmp_path / "run.h5"
    calls = count_calls(profile, whole, "none")

    def first():
        bench = FakeBench(profile)
        bench.runner(lambda: bench.create(path, killed_at(calls // 4))).run()

    def again():
        bench = FakeBench(profile)
        bench.runner(lambda: RunWriter.resume(path, bench.clock, fault=killed_at(111))).run()

    assert in_child(first) == KILLED
    deaths = 1
    while in_child(again) == KILLED:
        deaths += 1
        assert deaths < 50
    assert deaths > 2
    assert_same_measurement(path, whole)


def test_a_simulated_bench_resumes_to_the_same_frames(tmp_path):
    whole = Scan.new(load_profile("tiny"), tmp_path / "whole.h5", seed=3)
    with whole.devices:
        whole.runner().run()
    for number in (3, 40, 250, 400):
        path = tmp_path / f"killed{number}.h5"

        def run(path=path, number=number):
            scan = Scan.new(load_profile("tiny"), path, seed=3)
            with scan.devices:
                runner = scan.runner()
                writer = runner._open_writer

                def open_writer():
                    opened = writer()
                    opened._fault = killed_at(number)
                    return opened

                runner._open_writer = open_writer
                runner.run()

        assert in_child(run) == KILLED
        rest = Scan.interrupted(path)
        with rest.devices:
            rest.runner().run()
        assert_same_measurement(path, whole.path, other_visits=True)


def test_a_disk_that_refuses_in_the_middle_of_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "run.h5"
    profile = small_profile(keep_darks=3)

    def run():
        bench = FakeBench(profile)

        def limit():
            # Writes beyond this offset fail from now on, as on a full disk.
            half = path.stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))

        bench.camera.on_acquire = limit
        with pytest.raises(OSError, match="File too large"):
            bench.run(path)
        assert bench.log[-1] == "stop"

    assert in_child(run) == 0
    with open_run(path) as partial:
        assert partial.outcome in ("running", "failed")
    FakeBench(profile).resume(path)
    FakeBench(profile).run(tmp_path / "whole.h5")
    assert_same_measurement(path, tmp_path / "whole.h5")


def test_a_real_kill_signal(tmp_path):
    path = tmp_path / "run.h5"
    profile = small_profile()

    def run():
        bench = FakeBench(profile)
        taken = []

        def die():
            taken.append(1)
            if len(taken) == 13:
                os.kill(os.getpid(), signal.SIGKILL)

        bench.camera.on_acquire = die
        bench.run(path)

    assert in_child(run) == -signal.SIGKILL
    with open_run(path) as partial:
        assert partial.outcome == "running"
    FakeBench(profile).resume(path)
    FakeBench(profile).run(tmp_path / "whole.h5")
    assert_same_measurement(path, tmp_path / "whole.h5")
