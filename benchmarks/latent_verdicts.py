"""Do the verdicts keep their word? Unseen digits, and four kinds of frames that hold none.

python -m benchmarks.latent_verdicts [--count 200] [--negatives 300] [--device cuda --workers 8] [--tune]

`--tune` looks for thresholds of `recon.verdict` and `recon.foreign` on one half of the objects and reports the other
half, beside the thresholds as they are.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.latent_cases import NEGATIVES, Case, case_options, doses, finish
from benchmarks.report import append_rows, machine
from recon import verdict

LEAST_DICE = 0.8
SAID = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0)
"""Edges between which probabilities of success are held against the share of successes."""
CALLED, TRUE, FALSE = 0.95, 0.95, 0.02
"""What is asked: successes called recovered, recovered that are successes, false ones at most."""


@dataclass(frozen=True)
class Thresholds:
    """Constants that decide a verdict; see `recon.verdict` and `recon.foreign`."""

    sure: float = verdict.SURE
    foreign_nats: float = verdict.FOREIGN_NATS
    strange: float = verdict.STRANGE
    unlike: float = verdict.UNLIKE
    odd_frame: float = verdict.ODD_FRAME
    empty_nats: float = verdict.EMPTY_NATS


@dataclass(frozen=True)
class Table:
    """Columns of finished cases."""

    kind: NDArray[np.str_]
    index: NDArray[np.int64]
    photons: NDArray[np.float64]
    success: NDArray[np.bool_]
    probability: NDArray[np.float64]
    foreign: NDArray[np.float64]
    log_evidence: NDArray[np.float64]
    typical: NDArray[np.float64]
    pattern: NDArray[np.float64]
    odd: NDArray[np.float64]
    recovered: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Table:
        """From rows of digits and negatives."""
        keys = [row["key"].split(":") for row in rows]
        success = [
            k[0] == "digit" and r["psnr"] >= r["threshold"] and r["dice"] >= LEAST_DICE
            for k, r in zip(keys, rows, strict=True)
        ]
        return cls(
            np.array([key[0] for key in keys]),
            np.array([int(key[1]) for key in keys]),
            np.array([float(key[2]) for key in keys]),
            np.array(success),
            np.array([row["success_probability"] for row in rows]),
            np.array([row["foreign"] for row in rows]),
            np.array([row["log_evidence"] for row in rows]),
            np.array([row["typical"] for row in rows]),
            np.array([row["pattern"] for row in rows]),
            np.array([row["odd"] for row in rows]),
            np.array([row["word"] == verdict.Word.RECOVERED.value for row in rows]),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Table:
        """Some of the rows."""
        return Table(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def called(self, t: Thresholds) -> NDArray[np.bool_]:
        """Which would be called recovered, as `recon.verdict.judge` has it."""
        return (
            (self.probability >= t.sure)
            & (self.foreign <= t.foreign_nats)
            & (self.typical >= -t.strange)
            & (self.pattern <= t.unlike)
            & (self.odd <= t.odd_frame)
            & (self.log_evidence >= t.empty_nats)
        )


@dataclass(frozen=True)
class Shares:
    """Of successes that are called recovered, of recovered that are successes, of each negative that is recovered."""

    called: float
    true: float
    false: dict[str, float]

    @classmethod
    def of(cls, table: Table, called: NDArray[np.bool_]) -> Shares:
        """Digits and negatives of one dose."""
        digit = table.kind == "digit"
        good = called & table.success
        false = {kind: float(called[table.kind == kind].mean()) for kind in NEGATIVES if (table.kind == kind).any()}
        wins, said = table.success.sum(), (called & digit).sum()
        return cls(good.sum() / wins if wins else 1.0, good.sum() / said if said else 1.0, false)

    def missing(self) -> float:
        """How far the worst of them is from its claim; negative: by how much all are kept."""
        return max(
            (CALLED - self.called) / (1 - CALLED),
            (TRUE - self.true) / (1 - TRUE),
            *((share - FALSE) / FALSE for share in self.false.values()),
        )

    def line(self) -> str:
        """In words."""
        false = ", ".join(f"{kind} {share:.1%}" for kind, share in self.false.items())
        return f"successes called {self.called:.1%}, recovered that are {self.true:.1%}, false: {false or 'not run'}"


def sureness(table: Table) -> str:
    """Of digits: mean probability of success and its Brier score; said, and the share that came true, of how many."""
    said, true = table.probability, table.success
    groups = []
    for k, (low, high) in enumerate(itertools.pairwise(SAID)):
        inside = (said >= low) & ((said < high) | (k == len(SAID) - 2))
        if inside.any():
            groups.append(f"{said[inside].mean():.2f}: {true[inside].mean():.2f} of {inside.sum()}")
    brier = np.square(said - true).mean()
    return f"{said.mean():.3f} where {true.mean():.3f} are, Brier score {brier:.3f}; said: true {', '.join(groups)}"


def tuned(table: Table) -> Thresholds:
    """Constants that keep the claims with most to spare, or miss them least; near the ones in use where it is equal."""
    now = Thresholds()
    grid = itertools.product(
        np.round(np.arange(0.5, 0.96, 0.05), 2),
        (1.0, 2.0, 3.0, 4.0, 6.0, 9.0),
        np.arange(1.0, 3.1, 0.25),
        np.arange(0.5, 6.1, 0.5),
        (4.0, 5.0, 6.0, 8.0),
    )
    best, least = now, np.inf
    for sure, nats, strange, unlike, odd in grid:
        tried = Thresholds(float(sure), nats, float(strange), float(unlike), odd, now.empty_nats)
        apart = abs(tried.sure - now.sure) + 0.05 * abs(tried.strange - now.strange)
        apart += 0.01 * (abs(nats - now.foreign_nats) + abs(unlike - now.unlike) + abs(odd - now.odd_frame))
        missing = Shares.of(table, table.called(tried)).missing() + 0.02 * apart
        if missing < least:
            best, least = tried, missing
    return best


def words(rows: Sequence[dict[str, Any]]) -> str:
    """How often each verdict was given."""
    names, counts = np.unique([row["word"] for row in rows], return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    case_options(parser)
    parser.add_argument("--count", type=int, default=200, help="unseen digits")
    parser.add_argument("--negatives", type=int, default=300, help="of each kind, at the first dose")
    parser.add_argument("--tune", action="store_true")
    asked = parser.parse_args()
    sigma, photons = asked.read_noise, doses(asked)
    cases = []
    # Interleaved, so that an interrupted run holds some of everything.
    for k in range(max(asked.count, asked.negatives)):
        if k < asked.count:
            cases += [Case("digit", k, dose, sigma) for dose in photons]
        if k < asked.negatives:
            cases += [Case(kind, k, photons[0], sigma) for kind in NEGATIVES]
    known = finish(asked, cases, "benchmarks.latent_verdicts")
    if asked.shard is not None:
        return
    rows = [known[case.key] for case in cases if case.key in known]
    if not rows:
        raise SystemExit("no case is finished; give more --seconds")
    table = Table.of(rows)
    given = table.called(Thresholds())
    if (given != table.recovered).any():
        print(f"{int((given != table.recovered).sum())} verdicts were given with other thresholds than today's")
    results = []
    for dose in photons:
        chosen = table.photons == dose
        part = table.where(chosen)
        digits = int((part.kind == "digit").sum())
        shares = Shares.of(part, part.called(Thresholds()))
        label = f"{dose:g} photons, read noise {sigma:g}, {digits} digits"
        print(f"{label}: {part.success.sum() / max(digits, 1):.1%} successes; {shares.line()}")
        for kind in ("digit", *NEGATIVES):
            some = [row for row in rows if row["key"].startswith(f"{kind}:") and f":{dose:g}:" in row["key"]]
            if some:
                print(f"    {kind}: {words(some)}")
        results.append(
            (f"{label}: successes", f"{part.success.sum() / max(digits, 1):.1%}", "98 % at 1,000, 90 % at 300")
        )
        results.append((f"{label}: verdicts", shares.line(), "95 %, 95 %, 2 % at 1,000" if dose == photons[0] else ""))
        if digits:
            sure = sureness(part.where(part.kind == "digit"))
            print(f"    probability of success: {sure}")
            results.append((f"{label}: probability of success", sure, "as said"))
    if asked.tune:
        bright = table.where(table.photons == photons[0])
        half = bright.index % 2 == 0
        found = tuned(bright.where(half))
        rest = bright.where(~half)
        print(f"tuned on even objects: {found}")
        print(f"    even objects: {Shares.of(bright.where(half), bright.where(half).called(found)).line()}")
        print(f"    odd objects: {Shares.of(rest, rest.called(found)).line()}")
        print(f"    odd objects, as it is: {Shares.of(rest, rest.called(Thresholds())).line()}")
        _spread(bright)
    if asked.record:
        command = (
            f"python -m benchmarks.latent_verdicts --count {asked.count} --negatives {asked.negatives} "
            f"--photons {asked.photons} --read-noise {sigma:g}"
        )
        append_rows(command, results, machine("torch"))


def _spread(table: Table) -> None:
    """Quantiles of what decides, by kind: where a threshold can lie."""
    columns = {
        "P(success)": table.probability,
        "typical": table.typical,
        "pattern": table.pattern,
        "frames": table.odd,
        "evidence": table.log_evidence,
        "foreign": table.foreign,
    }
    for kind in dict.fromkeys(table.kind.tolist()):
        for name, values in columns.items():
            quantiles = np.quantile(values[table.kind == kind], (0, 0.02, 0.05, 0.25, 0.5, 0.75, 0.95, 0.98, 1))
            print(f"    {kind:9} {name:11} " + " ".join(f"{v:9.3g}" for v in quantiles))


if __name__ == "__main__":
    main()
