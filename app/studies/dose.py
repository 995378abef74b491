"""`ptychoscope study dose`: PSNR, success and the doses they need against photons per exposure (the paper's Fig. 5)."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.errors import Interrupted, UsageError
from app.outputs import require_folder
from app.progress import Course
from app.studies.cases import Case, CaseFile, Outcome, missing
from app.studies.curves import make_curves, rows, text_table
from app.studies.figure import dose_study_figure
from app.studies.grid import REFERENCE_DECODER, DoseStudy, list_cases
from app.studies.objects import MNIST, StudyObject, load_objects
from app.studies.runner import dask_cluster, dealt, here, processes
from app.studies.scene import StudyScene
from app.studies.scores import Reference, References, reference_key
from app.studies.work import PAPER, Assignment, Workshop, by_frames, work
from recon.decoders.package import load_package
from recon.device import pick_device
from recon.paper import PaperSettings

GPU_BATCH = 100
"""Objects that the paper's estimator takes at once on a GPU: 600 runs."""


@dataclass(frozen=True)
class Means:
    """Where the work is done.

    Attributes:
        device: of torch.
        processes: of this machine; on a GPU and with a scheduler there is one.
        scheduler: address of a Dask scheduler, or None.
    """

    device: str = "cpu"
    processes: int = 1
    scheduler: str | None = None

    @classmethod
    def asked(cls, device: str, processes: int | None, scheduler: str | None = None) -> Means:
        """As options ask for them; raises `UsageError` for processes where the work is done otherwise."""
        elsewhere = f"--scheduler {scheduler}" if scheduler else f"--device {device}" if device != "cpu" else ""
        if processes is not None and elsewhere:
            raise UsageError(f"--processes {processes}: with {elsewhere} there is one process here; leave it out")
        return cls(device, processes or os.cpu_count() or 1, scheduler)

    def run(self, job: Callable[..., Iterator[Any]], assignment: Any, items: Sequence[Any], key: Callable[[Any], Any],
            stop: Callable[[], bool]) -> Iterator[Any]:  # fmt: skip
        """Results of `job` on all items, as they come."""
        if not items:
            return iter(())
        if self.scheduler is not None:
            shares = [list(share) for share in _finest(items)]
            return dask_cluster(job, assignment, shares, stop, self.scheduler)
        if self.device != "cpu" or self.processes == 1:
            return here(job, assignment, [list(items)], stop)
        return processes(job, assignment, dealt(items, key, 2 * self.processes), stop, self.processes)


def _finest(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Shares for a cluster: the cases of one set of frames together."""
    if isinstance(items[0], Case):
        yield from by_frames(items)
    else:
        yield from ([item] for item in items)


_shop: tuple[Assignment, Workshop] | None = None


def _workshop(assignment: Assignment) -> Workshop:
    """This process's tools, kept from one share to the next."""
    global _shop
    if _shop is None or _shop[0] is not assignment:
        _shop = assignment, Workshop(assignment)
    return _shop[1]


def work_cases(assignment: Assignment, cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """`app.studies.work.work` with this process's tools."""
    return work(_workshop(assignment), cases)


def work_references(
    assignment: Assignment, asked: Sequence[tuple[StudyObject, str, str]]
) -> Iterator[tuple[StudyObject, Reference]]:
    """The references of objects, for a kind of truth and a decoder."""
    for obj, truth, decoder in asked:
        yield obj, _workshop(assignment).reference(obj, truth, decoder)


def run_dose_study(
    study: DoseStudy,
    out: Path,
    *,
    device: str = "auto",
    scheduler: str | None = None,
    process_count: int | None = None,
    scene: StudyScene | None = None,
    paper: PaperSettings = PAPER,
) -> dict[str, Any]:
    """Run what is missing, then draw and report all of it; `scene` and `paper` replace the paper's, for tests.

    Raises:
        UsageError: one line: an option, the objects, the folder, a process or the cluster.
        Interrupted: somebody stopped it; finished cases are kept and drawn.
    """
    begin = time.monotonic()
    study = study.checked()
    require_folder("study", out)
    scene = scene or StudyScene(positions=study.positions)
    place = pick_device(device)
    means = Means.asked(place, process_count, scheduler)
    objects = load_objects(study.objects, study.count)
    reference = load_package(REFERENCE_DECODER).sha256
    cases = list_cases(study, objects, scene, reference)
    file = CaseFile(out)
    with Course() as course, course.interruptible():
        references = _references(study, objects, scene, reference, out, means, course)
        if not course.stopped():
            _run(cases, file, replace(_assignment(objects, references, scene, means), paper=paper), means, course)
    outcomes = file.read()
    done = len(cases) - len(missing(cases, outcomes))
    values = _report(study, cases, outcomes, objects, references, out)
    values |= {"cases": done, "seconds": time.monotonic() - begin}
    if done < len(cases):
        raise Interrupted(
            f"study: {done} of {len(cases)} cases are kept in {out}; the same command goes on with the rest",
            values=values | {"cases_asked": len(cases)},
        )
    return values


def _assignment(
    objects: Sequence[StudyObject], references: dict[str, Reference], scene: StudyScene, means: Means
) -> Assignment:
    batch = 1 if means.device == "cpu" else GPU_BATCH
    return Assignment(scene, {o.name: o for o in objects}, references, means.device, batch)


def _references(
    study: DoseStudy, objects: Sequence[StudyObject], scene: StudyScene, decoder_sha: str, out: Path, means: Means,
    course: Course,
) -> dict[str, Reference]:  # fmt: skip
    """By the objects' names: frozen ones, those of this folder, and those that are made now, of 16 positions."""
    if scene.name == "paper":
        scene = StudyScene()
    store = References(out)
    keys = {o.name: reference_key(o, study.truth, scene, decoder_sha) for o in objects}
    found = {name: known for name, key in keys.items() if (known := store.get(key)) is not None}
    asked = [(o, study.truth, REFERENCE_DECODER) for o in objects if o.name not in found]
    if asked:
        course.begin("noise-free fits", len(asked))
        assignment = _assignment(objects, {}, scene, means)
        results = means.run(work_references, assignment, asked, lambda item: item[0].name, course.stopped)
        for count, (obj, reference) in enumerate(results, start=1):
            store.add(keys[obj.name], reference, f"{obj.name} {study.truth}")
            found[obj.name] = reference
            course.advance(count)
    return found


def _run(cases: list[Case], file: CaseFile, assignment: Assignment, means: Means, course: Course) -> None:
    done = file.read()
    rest = missing(cases, done)
    course.begin("cases", len(cases))
    course.advance(len(cases) - len(rest))
    if len(rest) < len(cases):
        course.say(f"{len(cases) - len(rest)} of {len(cases)} cases are there already")
    results = means.run(work_cases, assignment, rest, lambda c: (c.frames.object, c.frames.seed), course.stopped)
    for count, (case, outcome) in enumerate(results, start=1):
        file.add(case, outcome)
        frames = case.frames
        note = f"{frames.object} {case.method} {frames.photons:g} ph {frames.read_noise:g} e-"
        course.advance(len(cases) - len(rest) + count, note)


def _report(
    study: DoseStudy, cases: list[Case], outcomes: dict[str, Outcome], objects: Sequence[StudyObject],
    references: dict[str, Reference], out: Path,
) -> dict[str, Any]:  # fmt: skip
    curves = make_curves(cases, outcomes)
    if not curves:
        return {"curves": [], "out": str(out)}
    table = text_table(curves)
    (out / "table.txt").write_text(table, encoding="utf-8")
    points = rows(curves)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(points[0]))
        writer.writeheader()
        writer.writerows(points)
    known = list(references.values())
    baselines = (
        sum(r.prior_mean_db for r in known) / len(known),
        sum(r.noise_free_db for r in known) / len(known),
    )
    heading = (
        f"{len(objects)} objects ({study.objects if study.objects == MNIST else Path(study.objects).name}), truth "
        f"{study.truth}, pose {study.pose}, {study.positions} positions"
        + ("" if study.seeds == 1 else f", {study.seeds} seeds")
    )
    figure = dose_study_figure(curves, baselines, heading, out / "dose.png")
    return {
        "curves": [curve.summary() for curve in curves],
        "prior_mean_db": baselines[0],
        "noise_free_db": baselines[1],
        "objects": len(objects),
        "table": table,
        "out": str(out),
        "figure": str(figure),
    }
