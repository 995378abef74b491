"""Progress that nobody reads any more: the work goes on, the exit code is the work's, nothing is printed instead."""

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.acquire.command import ConsoleProgress
from app.acquire.observer import RunState
from app.acquire.scan import Scan
from app.bench.prompt import Terminal
from app.live.journal import Severity
from app.profile import load_profile
from app.progress import Course, stderr_console
from app.streams import ResilientStream, is_silent, resilient
from app.worker.following import Console
from drivers.base import OperatorNeeded
from drivers.clock import SystemClock
from recon.files.read import open_run

GONE = BrokenPipeError(errno.EPIPE, "Broken pipe")
FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_DISK = Path("/dev/full")
CLOSED = ValueError("I/O operation on closed file")


class Failing(io.StringIO):
    """Takes `lines` pieces of text and fails from then on, like a pipe or a disk: when it is written to or flushed."""

    def __init__(self, error: Exception, lines: int = 0, when: str = "flush"):
        super().__init__()
        self.error, self.left, self.when, self.tries = error, lines, when, 0

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            self.tries += 1
            if self.when == "write":
                raise self.error
        return super().write(text)

    def flush(self) -> None:
        if self.left < 0:
            raise self.error


@pytest.mark.parametrize("error", [GONE, FULL, CLOSED])
@pytest.mark.parametrize("when", ["write", "flush"])
def test_a_stream_that_fails_is_left_alone_for_good(error, when):
    failing = Failing(error, lines=1, when=when)
    stream = resilient(failing)
    for text in ("heard\n", "lost\n", "not even tried\n"):
        assert stream.write(text) == len(text)
        stream.flush()
    assert failing.tries == 1
    assert is_silent(stream)
    assert resilient(stream) is stream
    assert not stream.isatty()


def test_a_result_that_cannot_be_kept_is_an_error_and_one_that_nobody_wants_is_none():
    unwanted = ResilientStream(Failing(GONE), only_readers=True)
    unwanted.write("result")
    unwanted.flush()
    assert unwanted.silent
    unkept = ResilientStream(Failing(FULL), only_readers=True)
    unkept.write("result")
    with pytest.raises(OSError, match="No space left"):
        unkept.flush()


def test_without_a_stream_nothing_is_said():
    stream = resilient(None)
    assert is_silent(stream)
    stream.write("nothing")
    stream.flush()
    stream.close()


@pytest.mark.parametrize("error", [GONE, FULL, CLOSED])
def test_a_scan_outlives_the_reader_of_its_progress(tmp_path, error):
    stream = Failing(error, lines=3)
    scan = Scan.new(load_profile("tiny"), tmp_path / "run.h5", 0)
    with scan.devices:
        assert scan.runner(ConsoleProgress(stream, True)).run() is RunState.COMPLETED
    assert stream.tries == 1
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "completed"
        assert run.frames_committed == 16


@pytest.mark.parametrize("error", [GONE, FULL, CLOSED])
def test_long_computations_and_followed_scans_outlive_theirs(monkeypatch, error):
    stream = Failing(error)
    monkeypatch.setattr(sys, "stderr", stream)
    with Course() as course:
        course.begin("calibration", 3)
        course.advance(1, "so far")
        course.say("a line that stays")
    stderr_console().print("epoch 1/2")
    Console(SystemClock())._put(Severity.WARNING, "the image is late")
    assert stream.tries == 3


def test_a_question_that_nobody_can_read_is_not_answered_by_the_next_enter(monkeypatch):
    """The answer to what was not seen would set the stage going."""
    answers = io.StringIO("\n")
    monkeypatch.setattr(answers, "isatty", lambda: True)
    terminal = Terminal(answers, resilient(Failing(GONE)))
    with pytest.raises(OperatorNeeded, match="stderr is gone"):
        terminal.confirm("stage", "may the stage move so?")
    assert answers.tell() == 0


def program(*arguments, **streams) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "app.cli", *map(str, arguments)], env=environment, **streams)


def dead_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(("extra", "code"), [((), 0), (("--abort-after", 4), 130)])
def test_the_program_ends_with_the_works_exit_code_when_nobody_reads_its_progress(tmp_path, extra, code):
    out, pipe = tmp_path / "run.h5", dead_pipe()
    scan = program("scan", "--profile", "tiny", "--out", out, "--json", *extra, stdout=subprocess.PIPE, stderr=pipe)
    os.close(pipe)
    told, _ = scan.communicate(timeout=60)
    assert scan.returncode == code
    assert b'"outcome"' in told
    with open_run(out) as run:
        assert run.outcome == ("aborted" if code else "completed")


def test_the_program_says_nothing_about_a_result_that_nobody_reads(tmp_path):
    pipe = dead_pipe()
    check = program("check", "--profile", "tiny", "--json", stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    _, errors = check.communicate(timeout=60)
    assert check.returncode == 0
    assert errors == b""


@pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full")
def test_a_result_on_a_full_disk_is_one_line():
    with FULL_DISK.open("wb") as full:
        check = program("check", "--profile", "tiny", "--json", stdout=full, stderr=subprocess.PIPE)
        _, errors = check.communicate(timeout=60)
    assert check.returncode == 2
    assert re.match(rb"error: disk: .*full", errors)
    assert errors.count(b"\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="POSIX closes streams by number")
def test_streams_that_were_closed_before_do_not_end_the_program(tmp_path):
    """Nor is their number given to the run file, into which libraries would then write what they print."""
    command = f'"{sys.executable}" -m app.cli scan --profile tiny --out "{tmp_path / "run.h5"}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False, timeout=60).returncode == 0
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "completed"
