"""Binned frames, and unknowns carried to finer pixels: the patterns stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.adam import Adam
from recon.dataset import DatasetError, Geometry
from recon.levels import binned, finer
from recon.model import ForwardModel, object_size
from recon.unknowns import Unknowns
from tests.recon.scans import bright_scan


def test_binning_sums_light_and_noise_and_drops_blocks_with_a_bad_pixel():
    data = bright_scan(count=3).data
    mask = data.mask.copy()
    mask[5, 7] = False
    coarse = binned(replace(data, mask=mask), 2)
    assert coarse.geometry.shape == (48, 48)
    assert coarse.geometry.pixel_size_m == 2 * data.geometry.pixel_size_m
    assert coarse.frames[1, 10, 20] == pytest.approx(data.frames[1, 20:22, 40:42].sum(), rel=1e-6)
    assert coarse.frames.sum() == pytest.approx(data.frames.sum(), rel=1e-5)
    assert coarse.dark_variance[0, 0] == pytest.approx(4 * data.dark_variance[0, 0])
    assert np.argwhere(~coarse.mask).tolist() == [[2, 3]]
    assert binned(data, 1) is data
    with pytest.raises(DatasetError, match="cannot be binned by 5"):
        binned(data, 5)


def test_finer_unknowns_give_the_same_patterns():
    # Smooth fields at 16 um, far from the edges; the fine camera's pixels are then summed.
    axis = torch.arange(48) - 24
    y, x = axis[:, None].float(), axis[None, :].float()
    probe = torch.exp(-((y - 1) ** 2 + (x + 1) ** 2) / 6.0**2 * (1 + 0.3j) + 0.05j * y)[None]
    nominal = torch.tensor([[1.3, -2.2], [-3.4, 0.6], [2.0, 2.0], [0.5, -0.4], [-1.0, 1.7]])
    side = object_size(nominal, 48, 8)
    axis = (torch.arange(side) - side // 2).float()
    obj = 0.7 + 0.2 * torch.cos(0.2 * axis[:, None] + 0.1 * axis) + 0.1j * torch.sin(0.15 * axis[None, :])
    u = Unknowns(obj.to(torch.complex64), probe.to(torch.complex64), nominal, torch.arange(5), nominal[:, 0] > -9)
    u.affine.copy_(torch.tensor([0.3, -0.2, 0.1]))
    u.deviation.copy_(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    fine, ratio = finer(u, 2, 96, 16)
    coarse_model = ForwardModel.build(Geometry(561e-9, 6e-3, 16e-6, (64, 64)), 48)
    fine_model = ForwardModel.build(Geometry(561e-9, 6e-3, 8e-6, (128, 128)), 96)
    before = coarse_model.intensities(u.probe[0], u.object, u.positions_px())
    after = ratio * fine_model.intensities(fine.probe[0], fine.object, fine.positions_px())
    after = after.view(5, 64, 2, 64, 2).sum((2, 4))
    assert float((after - before).abs().sum() / before.sum()) < 0.01
    torch.testing.assert_close(fine.positions_px(), 2 * u.positions_px(), rtol=1e-4, atol=1e-4)


def test_adam_is_torchs_on_real_tensors():
    start = torch.randn(7, generator=torch.Generator().manual_seed(0))
    ours, theirs = start.clone(), start.clone().requires_grad_()
    adam, reference = Adam([ours]), torch.optim.Adam([theirs], lr=0.02, betas=(0.9, 0.99), eps=1e-12)
    adam.rates[0].fill_(0.02)
    for k in range(5):
        gradient = torch.randn(7, generator=torch.Generator().manual_seed(k + 1))
        adam.step([gradient])
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_adams_step_turns_with_the_gradients_phase():
    turn = np.exp(0.7j)
    steps = []
    for factor in (1.0, turn):
        field = torch.zeros(5, dtype=torch.complex64)
        adam = Adam([field])
        adam.rates[0].fill_(0.1)
        for k in range(3):
            gradient = torch.randn(5, dtype=torch.complex64, generator=torch.Generator().manual_seed(k))
            adam.step([gradient * factor])
        steps.append(field)
    torch.testing.assert_close(steps[0] * turn, steps[1])
