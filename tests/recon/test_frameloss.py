"""The hand-written adjoint against autograd's, against finite differences in double precision, and its parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.dataset import DatasetError, Geometry
from recon.frameloss import Batch, FrameLoss, gather, scatter, spread
from recon.model import ForwardModel, object_size, pixel_average
from recon.noise import MixedGaussian, StabilisedAmplitude
from recon.optics import critical_distance
from recon.propagators import FarField, NearField, fast_length, needed_window

WINDOW = 24
SHAPE = (48, 44)
GEOMETRY = Geometry(561e-9, 8e-3, 8e-6, SHAPE)
LONG = replace(GEOMETRY, distance_m=20e-3)
"""Beyond the critical distance of the frame: columns and rows of the spectrum are left out."""


def random(*shape, seed, dtype=torch.complex128):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator)


def scene(shape, modes=1, far=False):
    """Probe, object, batch, offset in double precision; nothing is symmetric, some pixels are bad."""
    positions = 6 * torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 3
    window = shape[0] if far else WINDOW
    axis = torch.arange(window, dtype=torch.float64) - window // 2
    envelope = torch.exp(-(axis[:, None] ** 2 + (axis[None, :] - 1) ** 2) / (window / 5) ** 2)
    probe = envelope * (1 + 0.2 * random(modes, window, window, seed=2))
    side = object_size(positions, window)
    obj = 0.7 + 0.2 * random(side, side, seed=3)
    whole = positions.round()
    corners = (whole.long() + side // 2 - window // 2).tolist()
    frames = 40 * torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weight = (torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) > 0.1).double()
    batch = Batch(
        frames,
        torch.full(shape, 0.8, dtype=torch.float64),
        weight,
        [(r, c) for r, c in corners],
        positions - whole,
        torch.tensor([50.0, 30.0, 60.0], dtype=torch.float64),
        torch.tensor([0.1, 0.2, 0.05], dtype=torch.float64),
    )
    return probe, obj, batch, torch.tensor(4e-5, dtype=torch.float64)


def near(geometry, padded):
    return NearField.build(geometry, WINDOW, padded=padded, dtype=torch.complex128)


CASES = {
    "near": (lambda: near(GEOMETRY, False), 1),
    "band-limited": (lambda: near(LONG, False), 1),
    "padded": (lambda: near(LONG, True), 1),
    "two modes": (lambda: near(LONG, False), 2),
    "far": (lambda: FarField.build(replace(GEOMETRY, shape=(32, 32))), 1),
}


@pytest.mark.parametrize("loss", [MixedGaussian(), StabilisedAmplitude()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite_differences(case, loss):
    build, modes = CASES[case]
    optics = build()
    far = case == "far"
    probe, obj, batch, offset = scene(optics.shape, modes, far)
    model = FrameLoss(optics, loss, pixels=not far)
    found = model(probe, obj, batch, offset)
    rng = torch.Generator().manual_seed(9)

    def value(**changed):
        now = replace(batch, **{k: v for k, v in changed.items() if k in ("shift_px", "gain", "background")})
        expected = model.intensities(
            changed.get("probe", probe), changed.get("obj", obj), now, changed.get("offset", offset)
        )
        return float(loss(expected, batch.frames, batch.variance, batch.weight))

    assert float(found.value) == pytest.approx(value(), rel=1e-12)
    cases = {
        "probe": (probe, found.probe, 1e-5),
        "obj": (obj, found.object, 1e-5),
        "shift_px": (batch.shift_px, found.shift_px, 1e-5),
        "offset": (offset, found.offset_m, 1e-9),
        # the gain's gradient is that of its logarithm
        "gain": (batch.gain, found.gain / batch.gain, 1e-4),
        "background": (batch.background, found.background, 1e-6),
    }
    for name, (at, gradient, step) in cases.items():
        direction = torch.randn(at.shape, dtype=at.dtype, generator=rng)
        slope = float((gradient.conj() * direction).real.sum())
        finite = (value(**{name: at + step * direction}) - value(**{name: at - step * direction})) / (2 * step)
        if far and name == "offset":
            assert slope == finite == 0
            continue
        assert slope == pytest.approx(finite, rel=2e-5, abs=1e-6 * abs(float(found.value))), name
        assert abs(finite) > 1e-6


@pytest.mark.parametrize("loss", [MixedGaussian(), StabilisedAmplitude()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("geometry", [GEOMETRY, LONG], ids=["near", "band-limited"])
def test_it_is_what_autograd_finds(geometry, loss):
    probe, obj, batch, offset = scene(SHAPE)
    single = replace(
        batch,
        **{
            name: getattr(batch, name).float()
            for name in ("frames", "variance", "weight", "shift_px", "gain", "background")
        },
    )
    leaves = [t.requires_grad_() for t in (probe[0].to(torch.complex64), obj.to(torch.complex64), offset.float())]
    whole = torch.tensor(batch.corners) - (obj.shape[-1] // 2 - WINDOW // 2)
    positions = (whole + single.shift_px).requires_grad_()
    model = ForwardModel.build(geometry, WINDOW)
    expected = model.intensities(leaves[0], leaves[1], positions, leaves[2]) * single.gain[:, None, None]
    value = loss(expected + single.background[:, None, None], single.frames, single.variance, single.weight)
    value.backward()
    optics = NearField.build(geometry, WINDOW, padded=False)
    with torch.no_grad():
        found = FrameLoss(optics, loss)(leaves[0][None], leaves[1], single, leaves[2])
    ours = (found.value, found.probe[0], found.object, found.shift_px, found.offset_m)
    theirs = (value.detach(), leaves[0].grad, leaves[1].grad, positions.grad, leaves[2].grad)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * float(b.abs().max())


def test_the_empty_beam_is_the_beam_through_nothing():
    probe, obj, batch, offset = scene(SHAPE)
    model = FrameLoss(near(LONG, True), MixedGaussian())
    one = replace(
        batch,
        frames=batch.frames[:1],
        weight=None,
        corners=[(0, 0)],
        shift_px=torch.zeros(1, 2, dtype=torch.float64),
        gain=batch.gain[:1],
        background=batch.background[:1],
    )
    through, empty = model(probe, torch.ones_like(obj), one, offset), model(probe, None, one, offset)
    torch.testing.assert_close(empty.value, through.value)
    torch.testing.assert_close(empty.probe, through.probe)
    torch.testing.assert_close(empty.offset_m, through.offset_m)


def test_a_padded_window_leaves_no_image_of_the_light_on_the_frame():
    # Against a transform four times as wide: the padded window is nearer than the frame's own.
    probe, obj, batch, offset = scene(SHAPE)
    truth_optics = NearField.build(replace(LONG, shape=(192, 192)), WINDOW, padded=True, dtype=torch.complex128)
    top, left = 96 - SHAPE[0] // 2, 96 - SHAPE[1] // 2
    wide = replace(batch, frames=torch.zeros(3, 192, 192, dtype=torch.float64), weight=None)
    truth = FrameLoss(truth_optics, MixedGaussian(), pixels=False).intensities(probe, obj, wide, offset)
    truth = truth[:, top : top + SHAPE[0], left : left + SHAPE[1]]

    def error(padded):
        ours = FrameLoss(near(LONG, padded), MixedGaussian(), pixels=False).intensities(probe, obj, batch, offset)
        return float((ours - truth).abs().sum() / truth.sum())

    # What is left is the light that the narrower band cuts at the frame's rim.
    assert error(True) < 0.02
    assert error(False) > 1.5 * error(True)


def test_the_needed_window_follows_from_the_geometry():
    # Far beyond the critical distance: frame and source side by side.
    assert needed_window(1024, 256, 3.45e-6, 561e-9, 65e-3) == 1280
    # Far below it: light hardly spreads and the frame is enough.
    assert critical_distance(256, 13.8e-6, 561e-9) > 65e-3
    assert needed_window(256, 64, 13.8e-6, 561e-9, 1e-3) == 256
    assert [fast_length(n) for n in (256, 257, 1279, 1280)] == [256, 270, 1280, 1280]
    optics = NearField.build(Geometry(561e-9, 65e-3, 3.45e-6, (1024, 1024)), 256, padded=True)
    assert optics.grid == (1280, 1280)
    assert "1024 x 1024 padded to 1280 x 1280" in optics.describe()
    assert optics.band[0] < 1280
    unpadded = NearField.build(GEOMETRY, WINDOW, padded=False).describe()
    assert "48 x 44 unpadded" in unpadded


def test_a_window_larger_than_the_frame_is_an_error():
    with pytest.raises(DatasetError, match=r"probe window 49 px exceeds the frame"):
        NearField.build(GEOMETRY, 49, padded=True)
    with pytest.raises(DatasetError, match="not square"):
        FarField.build(GEOMETRY)


def test_the_far_field_is_numpys_transform():
    optics = FarField.build(replace(GEOMETRY, shape=(32, 32)))
    wave = random(2, 32, 32, seed=7)
    field, _ = optics.forward(wave, torch.zeros(2, 2), torch.zeros(()))
    expected = np.fft.fftshift(np.fft.fft2(wave.numpy(), norm="ortho"), axes=(1, 2))
    np.testing.assert_allclose(field.numpy(), expected, atol=1e-12)
    assert optics.object_pixel_m == pytest.approx(561e-9 * 8e-3 / (32 * 8e-6))


def test_spread_is_the_models_pixel_average_and_its_own_adjoint():
    a, b = (torch.rand(2, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    torch.testing.assert_close(spread(a), pixel_average(a))
    assert float((spread(a) * b).sum()) == pytest.approx(float((a * spread(b)).sum()), rel=1e-12)


def test_windows_by_index_and_by_slices_are_the_same():
    field = random(20, 20, seed=1)
    corners = [(0, 3), (5, 2), (5, 3), (12, 12)]
    by_slice, by_index = gather(field, corners, 8), gather(field, torch.tensor(corners), 8)
    assert torch.equal(by_slice, by_index)
    totals = [torch.zeros_like(field), torch.zeros_like(field)]
    scatter(by_slice, corners, totals[0])
    scatter(by_slice, torch.tensor(corners), totals[1])
    torch.testing.assert_close(*totals)
    assert float((totals[0].conj() * field).sum().real) == pytest.approx(
        float(by_slice.abs().square().sum()), rel=1e-12
    )
