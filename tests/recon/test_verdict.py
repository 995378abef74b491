"""The rules of the verdict, on posteriors made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recon.decoders.scatter import Scatter
from recon.foreign import Foreign
from recon.verdict import EMPTY_NATS, FOREIGN_NATS, ODD_FRAME, STRANGE, SURE, UNLIKE, Word, judge
from tests.recon import latentscene as bench

OWN = Foreign(-5.0, 1.0, (), ())
PRIOR_MEAN = bench.bar(torch.randn(200, 5, generator=torch.Generator().manual_seed(0))).mean(0)
MISFIT = torch.full((bench.SIDE, bench.SIDE), 0.003)


def _samples(spread: float, count: int = 100) -> Tensor:
    """Draws about one bar, its latents spread by so much."""
    generator = torch.Generator().manual_seed(1)
    centre = torch.tensor([[1.2, -1.0, 0.5, 0.2, 0.0]])
    return bench.bar(centre + spread * torch.randn(count, 5, generator=generator))


def _judged(spread: float = 0.1, **others: Any) -> Any:
    arguments: dict[str, Any] = {
        "images": _samples(spread),
        "prior_mean": PRIOR_MEAN,
        "misfit": MISFIT,
        "scatter": Scatter.even(),
        "log_evidence": 200.0,
        "classes": {3: 0.9, 5: 0.1},
        "foreign": OWN,
        "frame_scores": torch.zeros(5),
        "electrons": 300.0,
    }
    return judge(**(arguments | others))


def test_a_narrow_posterior_is_recovered() -> None:
    verdict = _judged(0.1)
    assert verdict.word is Word.RECOVERED
    assert verdict.success >= SURE
    assert verdict.expected_db > verdict.needed_db


def test_a_wide_posterior_is_not() -> None:
    verdict = _judged(1.0)
    assert verdict.word in (Word.AMBIGUOUS, Word.DARK)
    assert verdict.success < SURE
    assert verdict.expected_db < _judged(0.1).expected_db


def test_two_modes_are_ambiguous_and_the_likelier_class_is_named() -> None:
    first, second = torch.tensor([[1.2, -1.0, 0.5, 0.2, 0.0]]), torch.tensor([[-1.0, 1.2, 0.5, 0.2, 0.0]])
    images = torch.cat((bench.bar(first).repeat(55, 1, 1), bench.bar(second).repeat(45, 1, 1)))
    verdict = _judged(images=images)
    assert verdict.word is Word.AMBIGUOUS
    assert "class 3 with 0.90" in verdict.reason


def test_little_evidence_over_an_empty_field_is_not_enough_light() -> None:
    assert _judged(log_evidence=EMPTY_NATS - 0.1).word is Word.DARK
    assert _judged(log_evidence=EMPTY_NATS + 0.1).word is Word.RECOVERED
    # However sure the decoder's own images are, and however odd the rest: nothing has been seen.
    dark = _judged(log_evidence=-2.0, foreign=Foreign(50.0, 64.0, (), ()), electrons=7.4)
    assert dark.word is Word.DARK
    assert "7 electrons" in dark.reason


def test_light_that_the_decoder_cannot_draw_is_not_of_this_class() -> None:
    verdict = _judged(foreign=Foreign(FOREIGN_NATS + 1, 16.0, (), ()))
    assert verdict.word is Word.FOREIGN
    assert "16 times" in verdict.reason
    assert _judged(foreign=Foreign(FOREIGN_NATS - 1, 16.0, (), ())).word is Word.RECOVERED


@pytest.mark.parametrize("sign", [1, -1])
def test_a_frame_with_too_much_or_too_little_light_is_not_of_this_class(sign: int) -> None:
    scores = torch.zeros(5)
    scores[3] = sign * (ODD_FRAME + 0.5)
    assert _judged(frame_scores=scores).word is Word.FOREIGN
    assert _judged(frame_scores=scores * 0.8).word is Word.RECOVERED


def test_unlikely_latents_are_not_of_this_class() -> None:
    assert _judged(typicality=-5.0).word is Word.FOREIGN
    assert _judged(typicality=0.5).word is Word.RECOVERED


def test_a_poor_decoder_makes_success_less_likely() -> None:
    # The misfit counts in what is expected; nothing is expected beyond it.
    good, poor = _judged(0.1), _judged(0.1, misfit=10 * MISFIT)
    assert poor.expected_db < good.expected_db
    assert poor.expected_db < -10 * torch.log10(torch.tensor(0.03)) + 1e-3


def test_the_order_of_the_samples_does_not_matter() -> None:
    images = _samples(0.4)
    turned = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(2))]
    one, other = _judged(images=images), _judged(images=turned)
    assert (one.word, one.reason) == (other.word, other.reason)
    assert replace(one, expected_db=0, needed_db=0) == replace(other, expected_db=0, needed_db=0)


def test_latents_unlike_the_class_are_not_of_it() -> None:
    verdict = _judged(typicality=-STRANGE - 0.1)
    assert verdict.word is Word.FOREIGN
    assert f"{STRANGE + 0.1:.1f} standard deviations" in verdict.reason
    # More usual than usual is nothing to hold against an object.
    for usual in (-STRANGE + 0.1, STRANGE + 1):
        assert _judged(typicality=usual).word is Word.RECOVERED


def test_light_elsewhere_than_the_image_puts_it_is_not_of_this_class() -> None:
    verdict = _judged(pattern=UNLIKE + 0.1)
    assert verdict.word is Word.FOREIGN
    assert f"{UNLIKE + 0.1:.1f} standard deviations" in verdict.reason
    assert _judged(pattern=UNLIKE - 0.1).word is Word.RECOVERED


def test_success_is_measured_against_the_fit_that_each_object_would_have() -> None:
    # What is left uncertain is as large as the misfit: a decoder that comes nearer to most objects than its misfit
    # asks for more than that.
    images = _samples(0.25, 400)
    even = _judged(images=images)
    nearer = _judged(images=images, scatter=Scatter(torch.ones(1), torch.tensor([0.1])))
    assert nearer.needed_db == pytest.approx(even.needed_db + 5, abs=1e-3)
    assert nearer.expected_db == pytest.approx(even.expected_db)
    assert nearer.success < even.success
    # Some objects are missed by little and others by much: the probability is the share of those it succeeds for.
    shares = [_judged(images=images, scatter=Scatter(torch.ones(1), torch.tensor([s]))).success for s in (0.1, 1.0)]
    both = _judged(images=images, scatter=Scatter(torch.ones(2), torch.tensor([0.1, 1.0])))
    assert both.success == pytest.approx(sum(shares) / 2, abs=1e-6)


def test_the_probability_of_success_comes_true() -> None:
    """Objects that the samples and the scatter say there could be: as many are successes as was foretold."""
    generator = torch.Generator().manual_seed(5)
    drawn = 10 ** (0.22 * torch.randn(200, generator=generator))
    scatter = Scatter(drawn / drawn.mean(), 0.4 * drawn * 10 ** (0.05 * torch.randn(200, generator=generator)))
    images, more = _samples(0.3, 300), _samples(0.3, 600)[300:]
    verdict = _judged(images=images, scatter=scatter)
    mean, wins = images.mean(0), 0
    for k, sample in enumerate(more):
        one = k % 200
        grain = torch.randn(sample.shape, generator=generator) * (MISFIT * scatter.drawn[one]).sqrt()
        truth = sample + grain
        nearest = float(MISFIT.mean() * scatter.nearest[one])
        error, baseline = (float((image - truth).square().mean()) for image in (mean, PRIOR_MEAN))
        wins += error <= (baseline * nearest) ** 0.5
    assert 0.2 < verdict.success < 0.8
    assert wins / len(more) == pytest.approx(verdict.success, abs=0.08)


def test_where_what_is_missed_was_looked_for_it_does_not_count_twice() -> None:
    sure = _judged(left=MISFIT / 10)
    assert sure.expected_db > _judged().expected_db
    assert sure.needed_db == pytest.approx(_judged().needed_db, abs=1)
