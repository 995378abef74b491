"""`ptychoscope study next`: what it saves to take the frames that the posterior says will tell most."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.errors import Interrupted
from app.outputs import require_folder
from app.progress import Course
from app.studies.cases import LineFile
from app.studies.dose import Means
from app.studies.nextframe import NextAssignment, NextCase, NextStudy, Walk, walks
from app.studies.nextframe_curves import order_curves, order_rows, order_table
from app.studies.nextframe_figure import next_study_figure
from app.studies.objects import MNIST, load_objects
from app.studies.scene import POINTS, StudyScene
from recon.decoders.package import load_package
from recon.device import pick_device


def run_next_study(
    study: NextStudy,
    out: Path,
    *,
    device: str = "auto",
    process_count: int | None = None,
    scene: StudyScene | None = None,
) -> dict[str, Any]:
    """Run what is missing, then draw and report all of it; `scene` replaces the paper's, for tests.

    Raises:
        UsageError: one line: an option, the objects, the folder or a process.
        Interrupted: somebody stopped it; finished cases are kept and drawn.
    """
    begin = time.monotonic()
    study = study.checked()
    require_folder("study", out)
    scene = scene or StudyScene(positions=POINTS)
    means = Means.asked(pick_device(device), process_count)
    objects = load_objects(study.objects, study.count)
    cases = study.cases(objects, scene, load_package(study.decoder).sha256)
    file = LineFile(out)
    with Course() as course, course.interruptible():
        done = file.outcomes()
        rest = [case for case in cases if case.key not in done]
        course.begin("scans", len(cases))
        course.advance(len(cases) - len(rest))
        if len(rest) < len(cases):
            course.say(f"{len(cases) - len(rest)} of {len(cases)} scans are there already")
        assignment = NextAssignment(scene, {o.name: o for o in objects}, study.decoder, means.device)
        found = means.run(walks, assignment, rest, lambda case: (case.object, case.seed), course.stopped)
        for count, (case, walk) in enumerate(found, start=1):
            file.append(case.key, asdict(case), asdict(walk))
            course.advance(len(cases) - len(rest) + count, f"{case.object} {case.order}")
    outcomes = file.outcomes()
    kept = [(case, Walk(**outcomes[case.key])) for case in cases if case.key in outcomes]
    values = _report(study, kept, scene, out)
    values |= {"cases": len(kept), "seconds": time.monotonic() - begin}
    if len(kept) < len(cases):
        raise Interrupted(
            f"study: {len(kept)} of {len(cases)} scans are kept in {out}; the same command goes on with the rest",
            values=values | {"cases_asked": len(cases)},
        )
    return values


def _report(study: NextStudy, kept: Sequence[tuple[NextCase, Walk]], scene: StudyScene, out: Path) -> dict[str, Any]:
    curves = order_curves(kept, study.sigma)
    if not curves:
        return {"orders": [], "out": str(out)}
    table = order_table(curves, study.sigma)
    (out / "table.txt").write_text(table, encoding="utf-8")
    rows = order_rows(curves)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = study.objects if study.objects == MNIST else Path(study.objects).name
    heading = (
        f"{len(curves[0].points)} scans ({source}, truth {study.truth}), {study.photons:g} photons a frame, read noise "
        f"{study.read_noise:g} e-, {study.candidates} points"
    )
    figure = next_study_figure(curves, scene.light.positions_m, study.sigma, heading, out / "next.png")
    return {"orders": [curve.summary() for curve in curves], "table": table, "out": str(out), "figure": str(figure)}
