"""What every test may lean on: one torch thread, seeded hypothesis, and the optional folder of shared data."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports numpy or torch; with busy cores a second thread makes everything ten times slower.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell's background job begins with SIGINT ignored, so do its children: tests that interrupt hang."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """One thread, whatever the machine; torch itself is left unloaded where a test does not need it."""
    if "torch" in sys.modules:
        import torch

        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data that PTYCHOSCOPE_DATA names; the test is skipped without it."""
    named = os.environ.get("PTYCHOSCOPE_DATA")
    if not named:
        pytest.skip("PTYCHOSCOPE_DATA is not set: no shared data sets here")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.skip(f"PTYCHOSCOPE_DATA: {named} is not a folder")
    return folder
