"""What the latent benchmarks count with: the brute-force sampler, ranks, calibration sums, shares of verdicts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.latent_cases import Case, _deranged, _share, read_rows
from benchmarks.latent_coverage import calibration, coverage
from benchmarks.latent_scene import settings_of
from benchmarks.latent_truth import KEPT_SHARE, _temperature, tempered
from benchmarks.latent_verdicts import Shares, Table, Thresholds, sureness, tuned
from recon import verdict
from recon.decoders.mixture import Mixture


def two_humps() -> Mixture:
    """Two normals in the plane, far apart, of weights 0.7 and 0.3."""
    means = torch.tensor([[-4.0, 0.0], [4.0, 1.0]])
    factors = torch.tensor([[[1.0, 0.0], [0.5, 0.8]], [[0.6, 0.0], [0.0, 0.9]]])
    return Mixture(torch.tensor([0.7, 0.3]), means, factors, torch.tensor([0, 1]))


def test_the_sampler_finds_a_posterior_with_two_modes():
    prior = two_humps()
    # A Gaussian likelihood leaves a mixture of Gaussians: weights, means and evidence are known.
    seen, noise = torch.tensor([1.0, 1.5]), 1.5
    covariances = prior.factors @ prior.factors.transpose(1, 2)
    spread = covariances + noise**2 * torch.eye(2)
    apart = seen - prior.means
    log_weights = (
        prior.weights.log()
        - 0.5 * (apart[:, None] @ torch.linalg.solve(spread, apart[:, :, None]))[:, 0, 0]
        - 0.5 * torch.logdet(spread)
        + math.log(noise**2)
    )
    weights = log_weights.softmax(0)
    means = prior.means + (covariances @ torch.linalg.solve(spread, apart[:, :, None]))[:, :, 0]
    mean = (weights[:, None] * means).sum(0)
    kept, evidence, _ = tempered(lambda z: -0.5 * ((z - seen) / noise).square().sum(1), prior, 4000, 0)
    found = torch.cat(kept)
    assert float(weights.min()) > 0.1
    assert float((found[:, 0] < 0).float().mean()) == pytest.approx(float(weights[0]), abs=0.05)
    assert found.mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.25)
    assert evidence == pytest.approx(float(torch.logsumexp(log_weights, 0)), abs=0.2)


def test_a_step_of_the_temperature_leaves_the_share_of_particles_that_it_should():
    likelihood = 40 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    step = _temperature(likelihood, 1.0)
    weights = (step * likelihood).softmax(0)
    assert float(1 / weights.square().sum()) / 2000 == pytest.approx(KEPT_SHARE, abs=0.01)
    assert _temperature(torch.zeros(10), 0.4) == 0.4


def test_uniform_ranks_cover_what_they_should_and_narrow_posteriors_do_not():
    ranks = (np.arange(1000) + 0.5) / 1000
    share, histogram = coverage(ranks)
    assert share == pytest.approx(0.68, abs=0.002)
    assert histogram == pytest.approx(np.ones(10))
    # Truths at twice the deviation that the posterior claims.
    said = np.array([0.5 * math.erfc(-2 * x / math.sqrt(2)) for x in np.random.default_rng(0).normal(size=4000)])
    assert coverage(said)[0] < 0.45


def test_the_calibration_error_is_that_of_its_bins():
    row = {"bin_count": [10, 0, 20], "bin_said": [2.0, 0.0, 18.0], "bin_true": [3.0, 0.0, 16.0]}
    error, score, curve = calibration([row | {"z_square": 8.0, "z_count": 2}, row | {"z_square": 0.0, "z_count": 0}])
    assert error == pytest.approx((1 + 2) / 30)
    assert score == pytest.approx(2.0)
    assert curve == ["0.20:0.30", "0.00:0.00", "0.90:0.80"]


def verdict_row(kind: str, index: int, probability: float, typical: float = 0.0, good: bool = True) -> dict:
    """A finished case as `benchmarks.latent_cases` writes it."""
    row = {
        "key": f"{kind}:{index}:1000:0.3",
        "word": "recovered" if probability >= verdict.SURE and typical >= -verdict.STRANGE else "ambiguous",
        "success_probability": probability,
        "foreign": -1.0,
        "log_evidence": 1000.0,
        "typical": typical,
        "pattern": 0.0,
        "odd": 1.0,
    }
    return row | ({"psnr": 25.0 if good else 15.0, "threshold": 20.0, "dice": 0.9} if kind == "digit" else {})


def test_shares_count_what_metrics_define():
    rows = [verdict_row("digit", k, 0.95) for k in range(8)]
    rows += [verdict_row("digit", 8, 0.2), verdict_row("digit", 9, 0.95, good=False)]
    rows += [verdict_row("kmnist", 0, 0.95), *(verdict_row("kmnist", k, 0.95, -9.0) for k in (1, 2, 3))]
    table = Table.of(rows)
    called = table.called(Thresholds())
    assert (called == table.recovered).all()
    shares = Shares.of(table, called)
    assert (shares.called, shares.true) == (pytest.approx(8 / 9), pytest.approx(8 / 9))
    assert shares.false == {"kmnist": 0.25}
    strict = Shares.of(table, table.called(replace(Thresholds(), sure=0.99)))
    assert strict.called == 0


def test_probabilities_of_success_are_held_against_what_came_true():
    rows = [verdict_row("digit", k, 0.6, good=k < 3) for k in range(4)]
    rows += [verdict_row("digit", 4, 1.0), verdict_row("digit", 5, 0.1, good=False)]
    told = sureness(Table.of(rows))
    assert told.startswith("0.583 where 0.667 are, Brier score 0.142; ")
    assert told.endswith("said: true 0.10: 0.00 of 1, 0.60: 0.75 of 4, 1.00: 1.00 of 1")


def test_tuning_finds_thresholds_that_keep_the_claims():
    rng = np.random.default_rng(0)
    rows = [verdict_row("digit", k, 0.9 + 0.1 * rng.random(), rng.uniform(-1.5, 1.5)) for k in range(60)]
    rows += [verdict_row("kmnist", k, 0.95, -1.8 - rng.random()) for k in range(60)]
    table = Table.of(rows)
    assert Shares.of(table, table.called(Thresholds())).missing() > 0
    assert Shares.of(table, table.called(tuned(table))).missing() <= 0


def test_shuffled_frames_all_leave_their_places():
    for seed in range(20):
        order = _deranged(16, seed)
        assert sorted(order) == list(range(16))
        assert (order != np.arange(16)).all()


def test_workers_share_the_cases_by_object_and_miss_none():
    cases = [Case(kind, k, dose, 0.3) for k in range(5) for kind in ("digit", "empty") for dose in (100.0, 300.0)]
    parts = [list(_share(cases, f"{k}/3")) for k in range(3)]
    assert sorted(c.key for part in parts for c in part) == sorted(c.key for c in cases)
    for part in parts:
        assert len(part) == 2 * len({(c.kind, c.index) for c in part})


def test_a_line_that_was_cut_short_is_computed_again(tmp_path):
    whole = json.dumps({"key": "digit:0:100:0.3", "odd": 1.0})
    (tmp_path / "cases.0-2.jsonl").write_text(whole + "\n" + '{"key": "digit:1:100', encoding="utf-8")
    assert list(read_rows(tmp_path)) == ["digit:0:100:0.3"]


def test_settings_are_named():
    assert (settings_of("chains=16,tolerance=0.5").chains, settings_of("chains=16,tolerance=0.5").tolerance) == (
        16,
        0.5,
    )
    with pytest.raises(SystemExit, match="--set depth: one of starts"):
        settings_of("depth=3")
