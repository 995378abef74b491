"""Who does a study's work: this process, several of them, or a Dask cluster; results come back one by one.

A process of its own a core, with one thread each: small matrices gain nothing from more, and threads that wait for one
another beside busy neighbours lose tenfold. Results are handed to the caller as they are found; what is not handed over
when somebody stops is lost, and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnProcess
from typing import Any

from app.errors import UsageError, known_message
from app.stopping import children_spared

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_S = 0.2
PATIENCE_S = 30
"""How long a scheduler may take to answer."""

Work = Callable[[Any, Sequence[Any]], Iterator[Any]]
"""From an assignment and a share of the work to results; a function of a module, so that it can travel."""


class StudyError(UsageError):
    """A study's process or cluster failed; the message says which and what to do."""


def here(work: Work, assignment: Any, shares: Sequence[Sequence[Any]], stop: Callable[[], bool]) -> Iterator[Any]:
    """All the work in this process, one share after another."""
    for share in shares:
        for result in work(assignment, share):
            yield result
            if stop():
                return


def processes(
    work: Work, assignment: Any, shares: Sequence[Sequence[Any]], stop: Callable[[], bool], count: int
) -> Iterator[Any]:
    """The work in `count` processes of this machine, one thread each.

    Raises:
        StudyError: a process ended before its work did, or failed at something that a person can put right.
    """
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    for share in shares:
        tasks.put(share)
    count = min(count, len(shares))
    for _ in range(count):
        tasks.put(None)
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    team: list[SpawnProcess] = []
    try:
        # The assignment travels once a process; its environment is read when it starts.
        for _ in range(count):
            member = context.Process(target=_member, args=(work, assignment, tasks, results), daemon=True)
            with children_spared():
                member.start()
            team.append(member)
        yield from _collected(results, team, stop)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for member in team:
            member.terminate()
        for member in team:
            member.join()
        for channel in (tasks, results):
            channel.cancel_join_thread()
            channel.close()


def _collected(results: Any, team: list[SpawnProcess], stop: Callable[[], bool]) -> Iterator[Any]:
    finished = 0
    while finished < len(team) and not stop():
        try:
            kind, value = results.get(timeout=POLL_S)
        except queue.Empty:
            dead = [member for member in team if member.exitcode not in (None, 0)]
            if dead:
                raise StudyError(
                    f"study: a process ended with exit code {dead[0].exitcode} (out of memory?); finished cases are "
                    "kept, run the same command again with fewer --processes"
                ) from None
            continue
        if kind == "result":
            yield value
        elif kind == "done":
            finished += 1
        elif kind == "known":
            raise StudyError(value)
        else:
            raise RuntimeError(f"a process of the study failed:\n{value}")


def _member(work: Work, assignment: Any, tasks: Any, results: Any) -> None:
    # Ctrl-C is the parent's to hear; where a start can block it, it is blocked already.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while (share := tasks.get()) is not None:
            for result in work(assignment, share):
                results.put(("result", result))
        results.put(("done", None))
    except Exception as error:
        message = known_message(error)
        results.put(("bug", traceback.format_exc()) if message is None else ("known", message))


def dask_cluster(
    work: Work, assignment: Any, shares: Sequence[Sequence[Any]], stop: Callable[[], bool], address: str
) -> Iterator[Any]:
    """The work on a Dask cluster whose workers have this program installed; a share a task.

    Raises:
        StudyError: Dask is not installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise StudyError(
            "--scheduler needs dask, which is not installed: pip install 'ptychoscope[dask]', here and on the workers"
        ) from None
    try:
        client = Client(address, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split()) or "no answer"
        raise StudyError(
            f"--scheduler {address}: cannot be reached ({reason}); start one with `dask scheduler`"
        ) from None
    with client:
        # Pickled by hand: the assignment reaches each worker once, and the task graph stays small.
        [packed] = client.scatter([pickle.dumps((work, assignment))], broadcast=True)
        futures = [client.submit(_remote, packed, share, pure=False) for share in shares]
        try:
            for _, results in as_completed(futures, loop=client.loop, with_results=True):
                yield from results
                if stop():
                    return
        finally:
            client.cancel(futures)


_unpacked: tuple[bytes, tuple[Work, Any]] | None = None


def _remote(packed: bytes, share: Sequence[Any]) -> list[Any]:
    """One share on a worker, which keeps the assignment for the next one."""
    global _unpacked
    if _unpacked is None or _unpacked[0] != packed:
        _unpacked = packed, pickle.loads(packed)
    work, assignment = _unpacked[1]
    return list(work(assignment, share))


def dealt(items: Sequence[Any], key: Callable[[Any], Any], parts: int) -> list[list[Any]]:
    """Items in shares: those with equal keys together, but split where there would be fewer than `parts` shares."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    pieces = max(1, -(-parts // max(1, len(groups))))
    return [group[k::pieces] for group in groups.values() for k in range(min(pieces, len(group)))]
