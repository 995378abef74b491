"""Is it the posterior's mean, is it one answer, and is the mode the highest? The estimator against brute force.

python -m benchmarks.latent_truth [--count 10] [--tests sampler,sketched,chains,order,starts,prototype] [--device cuda]

- sampler: the posterior mean against a tempered sequential Monte Carlo of its own with the decoder itself and 4,000
  particles, at 100 and 300 photons: PSNR within 0.3 dB.
- sketched: the same with the sketch in the decoder's place on both sides, which draws fifty times faster: search and
  chains are tried as they are, on a processor too.
- chains: the same against chains of its own kind, but twice as many, ten times as long, and from other starts: cheaper,
  and blind to modes that the search has missed.
- order: PSNR and mean image over five orders of the frames and five seeds of bank, proposals and chains.
- starts: 1,000 random starts at 1,000 photons, none given up; none ends 1 nat above the reported mode.
- prototype: the estimator beside the first prototype (maximum a posteriori under a unit normal prior, exact likelihood,
  Gauss-Newton from the mean and the best of the bank), and beside itself with a read noise of 0.1: almost ideal
  counting.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.latent_cases import Case, case_options, finish
from benchmarks.latent_scene import Bench, Objects, psnr32, settings_of
from benchmarks.report import append_rows, machine
from recon.chains import sample
from recon.decoders.mixture import Mixture
from recon.estimator import BANK, EXACT_STEPS, LatentEstimator
from recon.latent import Bank, LatentSettings, refine, search
from recon.observation import Observation
from recon.scene import Scene

TESTS = ("sampler", "sketched", "chains", "order", "starts", "prototype")
DOSES = {
    "sampler": (100.0, 300.0),
    "sketched": (100.0, 300.0),
    "chains": (100.0, 300.0),
    "order": (100.0, 300.0),
    "starts": (1000.0,),
    "prototype": (1000.0, 300.0, 100.0, 30.0),
}
PARTICLES = 4000
RUNS = 2
"""Of the sampler, with different seeds: their difference is its own error."""
KEPT_SHARE = 0.75
"""Effective share of the particles that a step of the temperature leaves. With fewer moves a step, or fewer particles,
they lag behind the temperature: 800 particles and 5 moves ended 11 nats below the posterior's mean."""
MOVES, LAST_MOVES, THINNED = 20, 200, 20
LONG = LatentSettings(mended=512, proposals=2048, chains=256, settling=4, decisions=10, leaps=4)
"""Of the long chains; each state is kept after ten and after twenty of the decoder's decisions."""
STARTS, AT_ONCE, DESCENT = 1000, 250, 30
ORDERS = 5
IDEAL = 0.1
"""Read noise that hides no photon, electrons."""
DRAWN_AT_ONCE = 1000


def tempered(
    log_likelihood: Callable[[Tensor], Tensor], prior: Mixture, particles: int, seed: int
) -> tuple[list[Tensor], float, int]:
    """Draws from a posterior, its log evidence, and the temperatures taken: sequential Monte Carlo from the prior.

    Moves are differential evolution (ter Braak 2006): one half of the particles walks along differences of the other,
    at times by whole differences, which lead from mode to mode. They shift no weight: the temperature's steps do that.
    """
    device = prior.means.device
    generator = torch.Generator().manual_seed(seed)
    theta = prior.sample(particles, seed + 1000)
    likelihood, density = log_likelihood(theta), prior.log_density(theta)
    power, evidence, steps, scale = 0.0, 0.0, 0, 2.38 / math.sqrt(2 * prior.size)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator).to(device)

    def move() -> float:
        moved = 0.0
        half = particles // 2
        for mine, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            others = theta[other]
            pairs = torch.randint(len(others), (2, half), generator=generator).to(device)
            stretch = torch.where(uniform(half) < 0.1, 1.0, scale * (0.5 + uniform(half)))
            noise = torch.randn(half, prior.size, generator=generator).to(device)
            tried = theta[mine] + stretch[:, None] * (others[pairs[0]] - others[pairs[1]]) + 1e-3 * noise
            said, prior_said = log_likelihood(tried), prior.log_density(tried)
            gain = power * (said - likelihood[mine]) + prior_said - density[mine]
            taken = uniform(half).log() < gain
            theta[mine] = torch.where(taken[:, None], tried, theta[mine])
            likelihood[mine] = torch.where(taken, said, likelihood[mine])
            density[mine] = torch.where(taken, prior_said, density[mine])
            moved += float(taken.float().mean()) / 2
        return moved

    while power < 1:
        step = _temperature(likelihood, 1 - power)
        weights = step * likelihood
        evidence += float(torch.logsumexp(weights, 0)) - math.log(particles)
        edges = weights.softmax(0).double().cumsum(0)
        points = (torch.arange(particles, device=device) + float(torch.rand((), generator=generator))) / particles
        chosen = torch.searchsorted(edges / edges[-1], points.double()).clamp_max(particles - 1)
        # Resampled particles lie in order of their parents; halves must not.
        chosen = chosen[torch.randperm(particles, generator=generator).to(device)]
        theta, likelihood, density = theta[chosen], likelihood[chosen], density[chosen]
        power, steps = power + step, steps + 1
        for _ in range(MOVES):
            scale *= math.exp(move() - 0.25)
    kept = []
    for k in range(LAST_MOVES):
        move()
        if k % THINNED == THINNED - 1:
            kept.append(theta.clone())
    return kept, evidence, steps


def _temperature(likelihood: Tensor, most: float) -> float:
    """The step of the inverse temperature that leaves `KEPT_SHARE` of the particles, by bisection."""

    def share(step: float) -> float:
        return float(1 / (step * likelihood).softmax(0).square().sum()) / len(likelihood)

    if share(most) >= KEPT_SHARE:
        return most
    low, high = 0.0, most
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) > KEPT_SHARE else (low, middle)
    return high


def descended(observation: Observation, scene: Scene, theta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt of all starts (n, size), none given up: where they end and their log posteriors."""

    def looked(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        terms = observation.terms(*scene.drawn(at))
        value, gradient, precision = scene.prior_terms(at)
        return terms.value + value, terms.gradient + gradient, terms.information + precision

    value, gradient, precision = looked(theta)
    damping = torch.full_like(value, 0.1)
    for _ in range(steps):
        damped = precision + torch.diag_embed(damping[:, None] * precision.diagonal(dim1=1, dim2=2))
        tried = theta + torch.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        new_value, new_gradient, new_precision = looked(tried)
        better = new_value > value
        damping = torch.where(better, damping * 0.2, damping * 5).clamp(1e-6, 1e6)
        theta = torch.where(better[:, None], tried, theta)
        value = torch.where(better, new_value, value)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        precision = torch.where(better[:, None, None], new_precision, precision)
    return theta, value


@dataclass
class Trial:
    """The tests, one digit at a time."""

    bench: Bench
    objects: Objects
    particles: int
    runs: int

    def row(self, case: Case) -> dict[str, Any]:
        """One test of one digit at one dose."""
        truth = self.objects.image("digit", case.index)
        return {"key": case.key} | getattr(self, f"_{case.kind}")(case, truth)

    def _data(self, case: Case, truth: NDArray[np.float32], sigma: float | None = None) -> Any:
        # The same frames whatever is tested.
        seed = Case("digit", case.index, case.photons, case.sigma).seed
        return self.bench.exposed(truth, case.photons, case.sigma if sigma is None else sigma, seed)

    def _sampler(self, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        return self._sampled(self.bench.estimator, case, truth)

    def _sketched(self, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        estimator = self.bench.estimator
        return self._sampled(replace(estimator, exact=estimator.scene), case, truth)

    def _sampled(self, estimator: LatentEstimator, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        observation = estimator.observe(self._data(case, truth))
        ours = estimator.posterior(observation)

        def log_likelihood(zeta: Tensor) -> Tensor:
            parts = zeta.split(DRAWN_AT_ONCE)
            return torch.cat([observation.value(estimator.exact.drawer.images(part)) for part in parts])

        means, evidences, steps = [], [], 0
        for run in range(self.runs):
            kept, evidence, steps = tempered(log_likelihood, estimator.scene.prior, self.particles, run)
            drawn = [estimator.exact.drawer.images(theta).mean(0) for theta in kept]
            means.append(torch.stack(drawn).mean(0).cpu().numpy())
            evidences.append(evidence)
        mean = np.mean(means, 0)
        return {
            "ours": psnr32(ours.mean, truth),
            "sampled": psnr32(mean, truth),
            "runs": [psnr32(m, truth) for m in means],
            "rms": float(np.sqrt(np.square(ours.mean - mean).mean())),
            "rms_runs": float(np.sqrt(np.square(means[0] - means[-1]).mean())),
            "rms_spread": float(np.sqrt(np.square(ours.spread).mean())),
            "evidence": [ours.log_evidence, *evidences],
            "temperatures": steps,
            "particles": self.particles,
        }

    def _chains(self, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        estimator, data = self.bench.estimator, self._data(case, truth)
        observation = estimator.observe(data)
        found = estimator.found(observation, scores=estimator.scores(observation, estimator.prepare(data)))
        ours = estimator.pictured(observation, found)
        runs = [
            sample(observation, estimator.scene, estimator.exact, found.modes, replace(LONG, seed=100 + run))
            for run in range(self.runs)
        ]
        means = [run.images.mean(0).cpu().numpy() for run in runs]
        mean = np.mean(means, 0)
        return {
            "ours": psnr32(ours.mean, truth),
            "sampled": psnr32(mean, truth),
            "runs": [psnr32(m, truth) for m in means],
            "rms": float(np.sqrt(np.square(ours.mean - mean).mean())),
            "rms_runs": float(np.sqrt(np.square(means[0] - means[-1]).mean())),
            "rms_spread": float(np.sqrt(np.square(ours.spread).mean())),
            "rms_sampled": float(np.sqrt(np.mean([run.images.var(0).mean().cpu() for run in runs]))),
            "accepted": [ours.accepted, *(run.accepted for run in runs)],
        }

    def _order(self, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        estimator, data = self.bench.estimator, self._data(case, truth)
        usual, bank = estimator.settings, estimator.bank
        orders, seeds = [estimator.estimate(data).mean], []
        for k in range(1, ORDERS):
            order = np.random.default_rng(k).permutation(len(data))
            orders.append(estimator.estimate(data.select(order)).mean)
        try:
            for k in range(ORDERS):
                estimator.settings = replace(usual, seed=k)
                estimator.bank = Bank.draw(estimator.scene, BANK, seed=100 * k)
                seeds.append(estimator.estimate(data).mean)
        finally:
            estimator.settings, estimator.bank = usual, bank

        def spread(means: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
            scores = [psnr32(m, truth) for m in means]
            return max(scores) - min(scores), float(np.sqrt(np.var(means, 0).mean()))

        return {"orders": spread(orders), "seeds": spread(seeds)}

    def _starts(self, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        estimator, settings = self.bench.estimator, self.bench.estimator.settings
        observation = estimator.observe(self._data(case, truth))
        found = search(observation, estimator.scene, estimator.bank, settings)
        exactly = replace(settings, iterations=EXACT_STEPS)
        reported = refine(observation, estimator.exact, found.theta[: settings.exact_modes], exactly)
        theta = estimator.scene.sample(STARTS, 4242)
        ends = [descended(observation, estimator.scene, part, DESCENT) for part in theta.split(AT_ONCE)]
        where, value = (torch.cat(parts) for parts in zip(*ends, strict=True))
        best = value.topk(min(8, len(value))).indices
        last, heights = descended(observation, estimator.exact, where[best], 2 * EXACT_STEPS)
        image = self.bench.images(estimator.scene.zeta(last[heights.argmax()][None]))[0].cpu().numpy()
        mode = self.bench.images(estimator.scene.zeta(reported.theta[:1]))[0].cpu().numpy()
        return {
            "reported": float(reported.log_posterior[0]),
            "best": float(heights.max()),
            "arrived": float((value > float(value.max()) - 1).float().mean()),
            "rms": float(np.sqrt(np.square(image - mode).mean())),
        }

    def _prototype(self, case: Case, truth: NDArray[np.float32]) -> dict[str, Any]:
        estimator, data = self.bench.estimator, self._data(case, truth)
        observation = estimator.observe(data)
        ours = estimator.posterior(observation)
        size = estimator.scene.prior.size
        normal = replace(estimator.exact, prior=Mixture.normal(size).to(self.bench.device))
        best = estimator.bank.theta[estimator.bank.scores(observation).argmax()]
        starts = torch.stack((torch.zeros_like(best), best))
        theta, value = descended(observation, normal, starts, 30)
        map_image = self.bench.images(theta[value.argmax()][None])[0].cpu().numpy()
        ideal = estimator.estimate(self._data(case, truth, IDEAL))
        return {
            "ours": psnr32(ours.mean, truth),
            "mode": psnr32(ours.mode, truth),
            "prototype": psnr32(map_image, truth),
            "ideal": psnr32(ideal.mean, truth),
        }


def trial_of(asked: argparse.Namespace, cases: Sequence[Case]) -> Trial:
    """What does the tests."""
    bench = Bench.build(asked.decoder, asked.prior, asked.device, settings=settings_of(asked.set))
    return Trial(bench, Objects.load(asked.objects), asked.particles, asked.runs)


Row = tuple[str, str, str]


def _sampler(label: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
    apart = np.array([row["ours"] - row["sampled"] for row in rows])
    own = np.array([abs(row["runs"][0] - row["runs"][-1]) for row in rows])
    image = np.mean([row["rms"] for row in rows]), np.mean([row["rms_runs"] for row in rows])
    each = " ".join(f"{v:+.2f}" for v in apart)
    said = (
        f"mean {apart.mean():+.2f} dB, at most {np.abs(apart).max():.2f} dB apart ({each}); sampler's two runs at most "
        f"{own.max():.2f} dB; mean images {image[0]:.3f} apart, the sampler's {image[1]:.3f}, "
        f"posterior deviation {np.mean([row['rms_spread'] for row in rows]):.3f}"
    )
    return [(f"{label}: posterior mean against tempered SMC, {rows[0]['particles']} particles", said, "0.3 dB")]


def _sketched(label: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
    ((subject, said, claim),) = _sampler(label, rows)
    return [(f"{subject}, the sketch as decoder on both sides", said, claim)]


def _chains(label: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
    ((_, said, claim),) = _sampler(label, [row | {"particles": 0} for row in rows])
    wide = np.mean([row["rms_spread"] / row["rms_sampled"] for row in rows])
    return [(f"{label}: posterior mean against long chains", f"{said}, {wide:.2f} of the chains'", claim)]


def _order(label: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
    result = []
    for name, what in (("orders", "orders of the frames"), ("seeds", "seeds")):
        spread = np.array([row[name] for row in rows])
        most, mean, image = spread[:, 0].max(), spread[:, 0].mean(), spread[:, 1].mean()
        said = f"PSNR within {most:.3f} dB (mean {mean:.3f}), mean image rms {image:.4f}"
        result.append((f"{label}: {ORDERS} {what}", said, "one answer"))
    return result


def _starts(label: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
    gain = np.array([row["best"] - row["reported"] for row in rows])
    arrived = np.mean([row["arrived"] for row in rows])
    said = f"at most {gain.max():+.2f} nats above the reported mode; {arrived:.0%} of the starts get there"
    return [(f"{label}: {STARTS} random starts", said, "1 nat")]


def _prototype(label: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
    ours, mode, first, ideal = (np.mean([row[name] for row in rows]) for name in ("ours", "mode", "prototype", "ideal"))
    said = (
        f"{ours:.2f} dB, prototype {first:.2f} ({ours - first:+.2f}), its own mode {mode:.2f}; "
        f"read noise {IDEAL}: {ideal:.2f} ({ideal - ours:+.2f})"
    )
    return [(f"{label}: mean psnr32", said, "1 dB above the prototype at 300 and 100")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    case_options(parser, "latent-truth")
    parser.add_argument("--count", type=int, default=10, help="digits")
    parser.add_argument("--particles", type=int, default=PARTICLES, help="of the sampler, 2,000 at least")
    parser.add_argument("--runs", type=int, default=RUNS, help="of the sampler, with different seeds")
    parser.add_argument("--tests", default=",".join(TESTS))
    asked = parser.parse_args()
    tests = asked.tests.split(",")
    if unknown := [name for name in tests if name not in TESTS]:
        raise SystemExit(f"--tests {unknown[0]!r}: one of {', '.join(TESTS)}")
    cases = [
        Case(test, k, dose, asked.read_noise) for k in range(asked.count) for test in tests for dose in DOSES[test]
    ]
    known = finish(asked, cases, "benchmarks.latent_truth", trial_of)
    if asked.shard is not None:
        return
    results: list[Row] = []
    tables = {
        "sampler": _sampler,
        "sketched": _sketched,
        "chains": _chains,
        "order": _order,
        "starts": _starts,
        "prototype": _prototype,
    }
    for test in tests:
        for dose in DOSES[test]:
            rows = [known[c.key] for c in cases if c.kind == test and c.photons == dose and c.key in known]
            if rows:
                results += tables[test](f"{dose:g} photons, {len(rows)} digits", rows)
    for quantity, measured, claim in results:
        print(f"{quantity}: {measured} (claim: {claim})")
    if asked.record:
        append_rows(f"python -m benchmarks.latent_truth --count {asked.count}", results, machine("torch"))


if __name__ == "__main__":
    main()
