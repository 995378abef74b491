"""Which frequencies the camera sees, and that a calibration leaves nothing in the others."""

from __future__ import annotations

import numpy as np
import torch

from recon.dataset import Geometry
from recon.reach import COMPACT, Reach
from recon.unknowns import Unknowns

WAVELENGTH_M, DISTANCE_M, PIXEL_M, SIDE, WINDOW = 561e-9, 60e-3, 13.8e-6, 96, 40
GEOMETRY = Geometry(WAVELENGTH_M, DISTANCE_M, PIXEL_M, (SIDE, SIDE))


def probe() -> torch.Tensor:
    """Ten lit rows and columns about the axis."""
    field = torch.zeros(1, WINDOW, WINDOW, dtype=torch.complex64)
    field[0, 15:26, 15:26] = 1
    return field


def waved(cycles_per_m: float) -> torch.Tensor:
    """A fringe of this frequency across the rows, on the grid's nearest one."""
    number = round(cycles_per_m * WINDOW * PIXEL_M)
    rows = torch.exp(2j * np.pi * number * torch.arange(WINDOW) / WINDOW)
    return rows[:, None].repeat(1, WINDOW).to(torch.complex64)


def test_a_frequency_counts_as_much_as_the_light_that_meets_the_frame_with_it():
    reach = Reach(probe(), GEOMETRY)
    # Light of frequency f lands lambda z f further on; half the frame is 662 um, the beam 76 um each way.
    half_m, beam_m, way = SIDE * PIXEL_M / 2, 5 * PIXEL_M, WAVELENGTH_M * DISTANCE_M
    inside, rim, beyond = (half_m - beam_m) / way - 3e3, half_m / way, (half_m + beam_m) / way + 3e3
    kept = [float(reach.seen(waved(f)).abs().mean()) for f in (inside, rim, beyond)]
    np.testing.assert_allclose(kept[0], 1, atol=1e-5)
    assert 0.2 < kept[1] < 0.8
    np.testing.assert_allclose(kept[2], 0, atol=1e-5)


def test_both_signs_and_axes_follow_the_frame_and_a_beam_beside_the_axis():
    aside = torch.roll(probe(), (12, 0), (1, 2))
    wide = Geometry(WAVELENGTH_M, DISTANCE_M, PIXEL_M, (SIDE, 2 * SIDE))
    weight = Reach(aside, wide).weight(WINDOW)
    rows, columns = weight[:, 0], weight[0]
    # Rows further down meet the lower rim sooner: positive frequencies end before negative ones.
    assert float(rows[: WINDOW // 2].sum()) < float(rows[WINDOW // 2 :].sum()) - 3
    # All that the pixels hold meets a frame of twice the width.
    assert float(columns.min()) == 1


def test_it_is_its_own_adjoint():
    reach = Reach(probe(), GEOMETRY)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(WINDOW, WINDOW, dtype=torch.complex64, generator=generator) for _ in range(2))
    one, other = (torch.vdot(x.flatten(), y.flatten()) for x, y in ((a, reach.seen(b)), (reach.seen(a), b)))
    torch.testing.assert_close(one, other)


def test_object_and_probe_keep_what_is_seen():
    generator = torch.Generator().manual_seed(1)
    obj = torch.randn(64, 64, dtype=torch.complex64, generator=generator)
    u = Unknowns(obj.clone(), probe(), torch.zeros(3, 2), torch.arange(3), torch.ones(3, dtype=torch.bool))
    reach = Reach(u.probe, GEOMETRY)
    reach.keep_seen(u)
    blind = reach.weight(64) == 0
    assert int(blind.sum()) > 500
    assert float(torch.fft.fft2(u.object)[blind].abs().max()) < 1e-3
    assert float(torch.fft.fft2(obj)[blind].abs().min()) > 0.1


def test_wide_beams_and_the_far_field_are_left_alone():
    frame_m = SIDE * PIXEL_M
    assert Reach.applies(GEOMETRY, COMPACT * frame_m)
    assert not Reach.applies(GEOMETRY, 1.01 * COMPACT * frame_m)
    assert not Reach.applies(GEOMETRY, None)
    far = Geometry(WAVELENGTH_M, DISTANCE_M, PIXEL_M, (SIDE, SIDE), far_field=True)
    assert not Reach.applies(far, 0.1 * frame_m)
