"""A settled illumination gives what the general model gives, values and gradients."""

import torch

from recon.dataset import Geometry
from recon.model import ForwardModel, object_size


def test_a_fixed_illumination_equals_the_general_model():
    generator = torch.Generator().manual_seed(3)
    model = ForwardModel.build(Geometry(561e-9, 20e-3, 13.8e-6, (64, 72)), 32)
    positions = 12 * torch.rand(5, 2, generator=generator) - 6
    probe = torch.randn(32, 32, dtype=torch.complex64, generator=generator)
    size = object_size(positions, 32)
    general = torch.randn(size, size, dtype=torch.complex64, generator=generator).requires_grad_()
    settled = general.detach().clone().requires_grad_()
    batch = torch.tensor([3, 0, 4])
    weight = torch.rand(3, 64, 72, generator=generator)
    expected = model.intensities(probe, general, positions[batch])
    found = model.fixed(probe, positions).intensities(settled, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    torch.testing.assert_close(settled.grad, general.grad, rtol=1e-3, atol=1e-3)
