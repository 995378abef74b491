"""Ctrl-C at any moment: one line, exit code 130, no traceback; children that a command starts do not hear it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from app.cli import app
from app.errors import EXIT_INTERRUPTED, STOPPED, Interrupted, run_guarded
from app.stopping import children_spared, hear_from_the_start

PROGRAM = "from app.program import main; main()"
MODULE = "import runpy; runpy.run_module('app.cli', run_name='__main__', alter_sys=True)"


@pytest.mark.parametrize(
    ("program", "module", "arguments"),
    [
        (PROGRAM, "typer", ("--help",)),
        (PROGRAM, "app.profile", ("check", "--profile", "tiny")),
        (PROGRAM, "torch", ("calibrate", "absent.h5")),
        (MODULE, "typer", ("--help",)),
    ],
)
def test_ctrl_c_while_a_module_is_loaded(program, module, arguments):
    script = (
        "import os, signal, sys\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        f"sys.argv = ['ptychoscope', *{arguments!r}]\n"
        f"{program}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_INTERRUPTED, "", f"{STOPPED}\n")


def test_ctrl_c_while_the_bench_connects(tmp_path, capsys, monkeypatch):
    from simulators.camera import SimulatedCamera
    from simulators.stage import SimulatedStage

    closed = []
    close = SimulatedCamera.close
    monkeypatch.setattr(SimulatedCamera, "close", lambda self: (closed.append(self), close(self)))
    monkeypatch.setattr(SimulatedStage, "open", lambda self: os.kill(os.getpid(), signal.SIGINT))
    for command in (["scan", "--profile", "tiny", "--out", str(tmp_path / "run.h5")], ["check", "--profile", "tiny"]):
        assert run_guarded(lambda command=command: app(command, standalone_mode=False)) == EXIT_INTERRUPTED
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"{STOPPED}\n")
    assert len(closed) == 2
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_outside_of_an_import_is_an_exception_and_what_is_ignored_stays_so():
    before = signal.getsignal(signal.SIGINT)
    try:
        hear_from_the_start()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        hear_from_the_start()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_kept_is_the_line_and_its_signal_the_code(capsys):
    def stopped():
        raise Interrupted("scan: half of it\nis kept", 143)

    assert run_guarded(stopped) == 143
    assert capsys.readouterr().err == "interrupted: scan: half of it is kept\n"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system cannot block a signal")
def test_a_child_does_not_hear_ctrl_c_from_its_first_moment_on():
    script = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still here')"
    with children_spared():
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "still here\n")
    # This process hears it again.
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
