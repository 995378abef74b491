"""What is added to a run is there as a whole or not at all, whatever ends its writing."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.acquire.scan import Scan
from app.profile import load_profile
from recon.dataset import DatasetError
from recon.files import schema
from recon.files.journal import PAGE, Journal, Overlay, Piece, changing, journal_of, recover
from recon.files.read import open_run
from recon.files.results import load_result, store_result
from recon.files.write import RunWriter
from tests.acquire.fakes import FakeBench
from tests.files.test_kill import KILLED, in_child, killed_at

ENTRY, NAME = 2, "reconstruction_latent"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a writer")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scanned") / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 5)
    with scan.devices:
        scan.runner().run()
    # One result is there already and is replaced by what the tests write.
    store_result(path, ENTRY, {"image": np.zeros((40, 40), np.float32)}, {"number": 0}, NAME)
    return path


@pytest.fixture
def run(scanned, tmp_path) -> Path:
    path = tmp_path / "run.h5"
    path.write_bytes(scanned.read_bytes())
    return path


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def add(path: Path, fault) -> None:
    """As `store_result` does, and something more in each entry."""
    with changing(path, fault) as file:
        for number in (1, ENTRY):
            entry = file[schema.entry_name(number)]
            if NAME in entry:
                del entry[NAME]
            group = entry.create_group(NAME)
            group.attrs["result"] = 1
            group["image"] = np.full((70, 70), 7, np.float32)


def added(path: Path) -> list[bool]:
    """Whether what `add` adds is there, of each entry it adds to."""
    with h5py.File(path, "r") as file:
        places = [file.get(f"{schema.entry_name(number)}/{NAME}/image") for number in (1, ENTRY)]
        return [place is not None and place.shape == (70, 70) and bool((place[...] == 7).all()) for place in places]


def frames_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open_run(path) as run:
        for entry in range(1, run.entries + 1):
            digest.update(run.raw(entry)[...].tobytes())
            run.ptychogram(entry)
        digest.update(run.plan_json.encode())
    return digest.hexdigest()


def steps(path: Path) -> list[str]:
    calls: list[str] = []
    add(path, calls.append)
    return calls


@needs_fork
def test_killed_at_every_step_a_run_has_its_frames_and_all_of_a_result_or_none(scanned, run, tmp_path):
    whole, before = frames_of(scanned), scanned.read_bytes()
    names = steps(run)
    assert {"grow", "journal", "journal's end", "done", "gone"} < set(names)
    assert sum(name.startswith("piece") for name in names) >= 3
    seen = set()
    for number in range(1, len(names) + 1):
        path = tmp_path / f"killed{number}.h5"
        path.write_bytes(before)
        assert in_child(lambda path=path, number=number: add(path, killed_at(number))) == KILLED
        assert frames_of(path) == whole
        there = added(path)
        assert there in ([True, True], [False, False])
        seen.add(there[0])
        assert not journal_of(path).exists()
        store_result(path, ENTRY, {"image": np.ones(3)}, {"number": 2}, NAME)
        found = load_result(path, ENTRY, NAME)
        assert found is not None
        assert found[1] == {"number": 2}
        assert frames_of(path) == whole
        path.unlink()
    assert seen == {True, False}


@needs_fork
def test_killed_while_it_is_finished_it_is_finished_by_the_next(scanned, run, monkeypatch):
    names = steps(run)
    run.write_bytes(scanned.read_bytes())
    at = names.index("sync")
    assert in_child(lambda: add(run, killed_at(at))) == KILLED
    assert journal_of(run).exists()

    whole = Journal.carry_out
    monkeypatch.setattr(Journal, "carry_out", lambda self, file: whole(self, file, killed_at(2)))
    assert in_child(lambda: recover(run)) == KILLED
    monkeypatch.setattr(Journal, "carry_out", whole)
    assert journal_of(run).exists()
    assert frames_of(run) == frames_of(scanned)
    assert added(run) == [True, True]


def test_a_full_disk_leaves_the_run_as_it_was(scanned, run):
    before = run.read_bytes()
    names = steps(run)
    for number, name in enumerate(names[: names.index("journal's sync") + 1]):
        run.write_bytes(before)
        left = number

        def full(where: str, left=left) -> None:
            if where == names[left]:
                raise OSError(errno.ENOSPC, "no room")

        with pytest.raises(OSError, match=str(run)) as caught:
            add(run, full)
        assert caught.value.errno == errno.ENOSPC
        assert run.read_bytes() == before, name
        assert not journal_of(run).exists()


def test_a_mistake_in_the_block_leaves_the_run_as_it_was(run):
    before = run.read_bytes()

    def mistaken() -> None:
        with changing(run) as file:
            del file[schema.entry_name(ENTRY)]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mistaken()
    assert run.read_bytes() == before


def test_nothing_changed_is_nothing_written(run):
    before = run.read_bytes()
    with changing(run) as file:
        assert schema.entry_name(1) in file
    assert run.read_bytes() == before


@needs_fork
def test_a_run_is_resumed_only_after_what_was_begun_is_finished(scanned, run):
    at = steps(run).index("sync")
    run.write_bytes(scanned.read_bytes())
    assert in_child(lambda: add(run, killed_at(at))) == KILLED
    RunWriter.resume(run, FakeBench(load_profile("tiny")).clock).close()
    assert not journal_of(run).exists()
    assert added(run) == [True, True]


@needs_fork
def test_the_journal_of_another_file_is_not_carried_out(scanned, run):
    at = steps(run).index("done")
    run.write_bytes(scanned.read_bytes())
    assert in_child(lambda: add(run, killed_at(at))) == KILLED
    other = bytearray(run.read_bytes())
    other[:PAGE] = bytes(PAGE)
    run.write_bytes(other)
    with pytest.raises(DatasetError, match=r"run\.h5\.journal.*delete the journal"):
        open_run(run)
    assert run.read_bytes() == other


def test_what_another_program_holds_is_not_changed(scanned, run):
    fcntl = pytest.importorskip("fcntl")
    before = run.read_bytes()
    with run.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(DatasetError, match="in use"):
            store_result(run, ENTRY, {}, {}, NAME)
        journal_of(run).write_bytes(b"")
        with pytest.raises(DatasetError, match="another process is writing it"):
            open_run(run)
    assert run.read_bytes() == before
    open_run(run).close()
    assert not journal_of(run).exists()


PIECES = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(1, 50)).flatmap(
        lambda pair: st.builds(
            Piece, st.just(pair[0]), *[st.binary(min_size=pair[1], max_size=pair[1]) for _ in range(2)]
        )
    ),
    max_size=4,
)


@given(PIECES, st.integers(0, 2**40), st.integers(0, 2**40), st.data())
def test_a_journal_reads_back_and_a_part_of_one_does_not(pieces, before, after, data):
    journal = Journal(before, after, tuple(pieces))
    raw = journal.to_bytes()
    assert Journal.from_bytes(raw) == journal
    assert Journal.from_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3 * PAGE), st.binary(min_size=1, max_size=2 * PAGE)),
        st.tuples(st.just("truncate"), st.integers(0, 4 * PAGE), st.none()),
        st.tuples(st.just("read"), st.integers(0, 4 * PAGE), st.integers(0, 2 * PAGE)),
    ),
    max_size=8,
)


@given(st.binary(max_size=3 * PAGE), CALLS)
@settings(max_examples=150, deadline=None)
def test_an_overlay_is_the_file_that_it_becomes(tmp_path_factory, first, calls):
    path = tmp_path_factory.mktemp("overlay") / "file"
    path.write_bytes(first)
    model = bytearray(first)
    with path.open("r+b", buffering=0) as file:
        overlay = Overlay(file)
        for kind, at, value in calls:
            if kind == "write":
                model.extend(bytes(max(0, at - len(model))))
                model[at : at + len(value)] = value
                overlay.seek(at)
                assert overlay.write(value) == len(value)
            elif kind == "truncate":
                model = model[:at] + bytes(max(0, at - len(model)))
                overlay.truncate(at)
            else:
                overlay.seek(at)
                assert overlay.read(value) == bytes(model[at : at + value])
        assert overlay.seek(0, os.SEEK_END) == len(model)
        assert path.read_bytes() == first
        overlay.commit(journal_of(path))
    assert path.read_bytes() == model
