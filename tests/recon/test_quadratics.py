"""Sums of quadratic forms on windows of an image, one by one and as one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from recon.quadratics import Quadratics
from tests.recon import latentscene as bench

CAMERA = bench.operator(bench.light(300, window=60))
IMAGES = bench.bar(torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))


def _forms(count: int = 5, seed: int = 0) -> Tensor:
    high, wide = CAMERA.window
    half = torch.randn(count, high * wide, 40, generator=torch.Generator().manual_seed(seed))
    return half @ half.transpose(1, 2) / 40


def _by_hand(forms: Tensor, frames: range = range(5)) -> Tensor:
    """(N, S) values, frame by frame in double precision."""
    local = CAMERA.local(IMAGES).flatten(2).double()
    return torch.stack(
        [torch.einsum("si,ij,sj->s", local[j], forms[k].double(), local[j]) for k, j in enumerate(frames)]
    )


@dataclass(frozen=True)
class Case:
    quadratics: Quadratics
    summed: bool


@pytest.fixture(params=[True, False], ids=["whole", "each"])
def case(request: pytest.FixtureRequest) -> Case:
    """As one matrix where many frames overlap, one by one where not."""
    if request.param:
        many = CAMERA
        for _ in range(3):
            many = many.joined(CAMERA)
        return Case(Quadratics.of(many, _forms().repeat(4, 1, 1) / 4), True)
    return Case(Quadratics.of(CAMERA.select([0]), _forms(1)), False)


def test_both_ways_give_what_each_frame_gives(case: Case) -> None:
    assert (case.quadratics.whole is not None) is case.summed
    expected = _by_hand(_forms()).sum(0) if case.summed else _by_hand(_forms(1), range(1)).sum(0)
    assert case.quadratics.total(IMAGES).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert case.quadratics.by_frame(IMAGES).sum(0).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_applied_is_half_the_gradient(case: Case) -> None:
    at = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.quadratics.by_frame(at).sum(), at)
    assert torch.allclose(
        2 * case.quadratics.apply(IMAGES), gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max())
    )


def test_parts_joined_are_the_whole_and_selected_are_the_parts(case: Case) -> None:
    whole = case.quadratics
    count = len(whole.each)
    first, rest = whole.operator.select([0]), whole.operator.select(range(1, count))
    parts = whole.select(first, [0]), whole.select(rest, range(1, count))
    if count > 1:
        joined = parts[0].joined(first.joined(rest), parts[1])
        assert torch.equal(joined.each, whole.each)
        assert joined.total(IMAGES).tolist() == pytest.approx(whole.total(IMAGES).tolist(), rel=1e-5)
        back = parts[1].joined(rest.joined(first), parts[0])
        assert back.total(IMAGES).tolist() == pytest.approx(whole.total(IMAGES).tolist(), rel=1e-5)
    sums = sum(part.total(IMAGES) for part in parts if len(part.each))
    assert torch.as_tensor(sums).tolist() == pytest.approx(whole.total(IMAGES).tolist(), rel=1e-4)


def test_what_is_lost_is_taken_out_of_both(case: Case) -> None:
    lost = 0.3 * case.quadratics.each[0]
    less = case.quadratics.less({0: lost})
    expected = case.quadratics.total(IMAGES) - 0.3 * case.quadratics.by_frame(IMAGES)[0]
    assert less.total(IMAGES).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert less.by_frame(IMAGES).sum(0).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_operators_of_different_windows_do_not_join() -> None:
    wide = bench.operator(bench.light(300))
    with pytest.raises(ValueError, match="windows of"):
        CAMERA.joined(wide)
