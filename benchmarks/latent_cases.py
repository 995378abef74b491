"""Cases of the latent benchmarks: one object at one dose, estimated and scored, a JSON line each, kept in a folder.

Several commands read the same folder, and a case is computed once. `--workers` starts that many processes, which share
the cases by object; on a GPU too, where one process waits for Python most of the time.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.latent_scene import SIDE, Bench, Objects, bench_options, psnr32, settings_of
from recon.posterior import Posterior

BLOCK = 8
"""Side of the blocks whose means are ranked, pixels."""
SURE = 0.05
"""Deviation from which on a pixel's z-score counts."""
BINS = 10
"""Of the probabilities between 0.05 and 0.95."""
NEGATIVES = ("empty", "shuffled", "kmnist", "omniglot")


@dataclass(frozen=True)
class Case:
    """One object at one dose.

    Attributes:
        kind: "prior" (drawn from it), "digit" (an unseen one), "empty" (no light comes through), "shuffled" (a digit,
            its frames at wrong positions), "kmnist", "omniglot"; or what is to be done with a digit.
        index: of the object.
        photons: per exposure.
        sigma: read noise, electrons.
    """

    kind: str
    index: int
    photons: float
    sigma: float

    @property
    def key(self) -> str:
        """Its name in the folder."""
        return f"{self.kind}:{self.index}:{self.photons:g}:{self.sigma:g}"

    @property
    def seed(self) -> list[int]:
        """Of its noise."""
        return [*self.kind.encode(), self.index, round(self.photons * 1000), round(self.sigma * 1000)]


@dataclass
class Judge:
    """What cases are scored against.

    Attributes:
        bench: the estimator under the study's light.
        objects: images by kind.
        latents, drawn: of the objects drawn from the prior.
        thresholds: PSNR from which each digit is recovered.
    """

    bench: Bench
    objects: Objects
    latents: torch.Tensor
    drawn: NDArray[np.float32]
    thresholds: list[float]

    @classmethod
    def build(cls, bench: Bench, objects: Objects, digits: int, draws: int, kept: Path) -> Judge:
        """For that many digits and draws of the prior."""
        truths = np.stack([objects.image("digit", k) for k in range(max(1, digits))])
        latents, drawn = bench.drawn_prior(max(1, draws))
        return cls(bench, objects, latents, drawn, bench.thresholds(truths, kept))

    def truth(self, case: Case) -> NDArray[np.float32]:
        """(s, s) the object."""
        match case.kind:
            case "prior":
                return self.drawn[case.index]
            case "empty":
                return np.zeros((SIDE, SIDE), np.float32)
            case "shuffled":
                return self.objects.image("digit", case.index)
        return self.objects.image(case.kind, case.index)

    def row(self, case: Case) -> dict[str, Any]:
        """The case, computed."""
        truth = self.truth(case)
        data = self.bench.exposed(truth, case.photons, case.sigma, case.seed)
        if case.kind == "shuffled":
            data.frames[:] = data.frames[_deranged(len(data), case.index)]
        self.bench.estimator.prepare(data)
        begin = time.perf_counter()
        found = self.bench.estimator.estimate(data)
        row: dict[str, Any] = {"key": case.key, "seconds": time.perf_counter() - begin} | _said(found)
        row["psnr32"] = psnr32(found.mean, truth) if truth.any() else None
        if case.kind == "digit":
            row["psnr"], row["dice"] = self.bench.psnr(found.mean, truth)
            row["threshold"] = self.thresholds[case.index]
            row["label"] = int(self.objects.labels[case.index])
            row |= _calibration(found, truth)
        if case.kind == "prior":
            row |= self._ranks(found, case.index)
        return row

    def _ranks(self, found: Posterior, index: int) -> dict[str, Any]:
        """Share of the samples below the truth, of latents, block means and stroke area."""
        theta = torch.from_numpy(found.theta).to(self.bench.device)
        images = self.bench.images(theta[:, : self.latents.shape[1]]).cpu().numpy()
        truth = self.drawn[index]
        rng = np.random.default_rng(index)

        def rank(samples: NDArray, true: NDArray) -> list[float]:
            # Ties, which whole numbers have, are broken at random.
            below = (samples < true).mean(0) + rng.random(np.shape(true)) * (samples == true).mean(0)
            return [round(float(v), 4) for v in np.atleast_1d(below)]

        return {
            "latents": rank(theta[:, : self.latents.shape[1]].cpu().numpy(), self.latents[index].cpu().numpy()),
            "blocks": rank(_blocks(images), _blocks(truth[None])[0]),
            "area": rank((images > 0.5).sum((1, 2)), np.asarray((truth > 0.5).sum())),
        }


def _blocks(images: NDArray) -> NDArray:
    side = images.shape[-1] // BLOCK
    return images.reshape(len(images), side, BLOCK, side, BLOCK).mean((2, 4)).reshape(len(images), -1)


def _deranged(count: int, seed: int) -> NDArray[np.int64]:
    """A permutation that leaves nothing in its place."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order


def _said(found: Posterior) -> dict[str, Any]:
    """What the estimator says of itself."""
    verdict = found.verdict
    top = max(found.classes, key=lambda label: found.classes[label])
    return {
        "word": verdict.word.value,
        "success_probability": verdict.success,
        "expected": verdict.expected_db,
        "needed": verdict.needed_db,
        "log_evidence": found.log_evidence,
        "foreign": found.foreign.log_odds,
        "evidence": [round(v, 3) for v in (*found.foreign.own, *found.foreign.evidence)],
        "typical": found.typicality,
        "pattern": found.pattern,
        "odd": float(np.abs(found.frame_scores).max()),
        "electrons": found.electrons,
        "class": top,
        "class_probability": found.classes[top],
        "modes": found.modes,
        "converged": found.converged,
        "iterations": found.iterations,
        "efficiency": found.efficiency,
        "accepted": found.accepted,
    }


def _calibration(found: Posterior, truth: NDArray[np.float32]) -> dict[str, Any]:
    """Sums from which calibration error and z-scores of many objects follow."""
    z = (found.mean - truth) / found.deviation
    wide = found.deviation > SURE
    probability = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in ((found.mean - 0.5) / found.deviation).flat])
    inside = (probability > 0.05) & (probability < 0.95)
    bins = ((probability[inside] - 0.05) / 0.9 * BINS).astype(int).clip(0, BINS - 1)
    hit = (truth.flatten() > 0.5)[inside]

    def sums(weights: NDArray | None) -> list[float]:
        return [round(float(v), 4) for v in np.bincount(bins, weights, BINS)]

    return {
        "z_square": float(np.square(z[wide]).sum()),
        "z_count": int(wide.sum()),
        "bin_count": sums(None),
        "bin_said": sums(probability[inside]),
        "bin_true": sums(hit.astype(float)),
    }


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """All finished cases by key; a line cut short by an interruption is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("cases*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[row["key"]] = row
    return rows


def case_options(parser: argparse.ArgumentParser, folder: str = "latent-cases") -> None:
    """Options of benchmarks that go through cases."""
    bench_options(parser)
    parser.add_argument("--out", type=Path, default=Path(folder), help="folder of the finished cases")
    parser.add_argument("--photons", default="1000,300,100")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after that time; run again to go on")
    parser.add_argument("--shard", help=argparse.SUPPRESS)


def doses(asked: argparse.Namespace) -> list[float]:
    """Photons per exposure, as asked for."""
    return [float(word) for word in asked.photons.split(",")]


class Worker(Protocol):
    """Computes cases."""

    def row(self, case: Case) -> dict[str, Any]:
        """The case, computed; its key among the rest."""
        ...


Build = Callable[[argparse.Namespace, Sequence[Case]], Worker]


def finish(
    asked: argparse.Namespace, cases: Sequence[Case], module: str, build: Build | None = None
) -> dict[str, dict[str, Any]]:
    """Compute what is missing of `cases`, in their order; all rows of the folder."""
    asked.out.mkdir(parents=True, exist_ok=True)
    done = read_rows(asked.out)
    todo = [case for case in cases if case.key not in done]
    begin = time.monotonic()
    if todo and asked.workers > 1 and asked.shard is None:
        _in_processes(asked, cases, module, build or judge_of)
    elif todo:
        _compute(asked, todo, cases, build or judge_of)
    rows = read_rows(asked.out)
    if asked.shard is None and todo:
        fresh = sum(case.key in rows for case in todo)
        print(f"{fresh} of {len(todo)} cases in {time.monotonic() - begin:.0f} s on {asked.device}", flush=True)
    return rows


def judge_of(asked: argparse.Namespace, cases: Sequence[Case]) -> Judge:
    """What scores `cases`."""
    bench = Bench.build(asked.decoder, asked.prior, asked.device, settings=settings_of(asked.set))
    most = {kind: 1 + max((c.index for c in cases if c.kind == kind), default=-1) for kind in ("digit", "prior")}
    kept = asked.out / "thresholds.json"
    return Judge.build(bench, Objects.load(asked.objects), most["digit"], most["prior"], kept)


def _compute(asked: argparse.Namespace, todo: Sequence[Case], cases: Sequence[Case], build: Build) -> None:
    torch.set_num_threads(1)
    worker = build(asked, cases)
    name = "cases.jsonl" if asked.shard is None else f"cases.{asked.shard.replace('/', '-')}.jsonl"
    begin = time.monotonic()
    with (asked.out / name).open("a", encoding="utf-8") as file:
        for k, case in enumerate(_share(todo, asked.shard)):
            if time.monotonic() - begin > asked.seconds:
                break
            file.write(json.dumps(worker.row(case)) + "\n")
            file.flush()
            if asked.shard is None and k % 20 == 19:
                print(f"{k + 1} of {len(todo)}, {(time.monotonic() - begin) / (k + 1):.2f} s each", flush=True)


def _share(todo: Sequence[Case], shard: str | None) -> Iterator[Case]:
    """A worker's cases: all doses of an object in one place, so that its light is computed once."""
    if shard is None:
        yield from todo
        return
    mine, workers = (int(word) for word in shard.split("/"))
    objects = {key: k for k, key in enumerate(dict.fromkeys((case.kind, case.index) for case in todo))}
    yield from (case for case in todo if objects[case.kind, case.index] % workers == mine)


def _in_processes(asked: argparse.Namespace, cases: Sequence[Case], module: str, build: Build) -> None:
    # What all of them need is made once, before they begin.
    build(asked, cases)
    if asked.device == "cuda":
        torch.cuda.empty_cache()
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    running = [subprocess.Popen([*command, "--shard", f"{k}/{asked.workers}"]) for k in range(asked.workers)]
    try:
        failed = [process.wait() for process in running]
    except KeyboardInterrupt:
        for process in running:
            process.terminate()
        raise
    if any(failed):
        raise SystemExit(f"{sum(map(bool, failed))} of {len(running)} workers failed; finished cases are kept")
