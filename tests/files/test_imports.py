"""Other people's files beyond the plain near field: far field, marks for bad pixels, probes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.dataset import DatasetError
from recon.files.exchange import ExchangeFormat, export
from recon.files.imports import Overrides, read_any, read_probe
from tests.files.foreign import cxi, far_field_npz


def test_pixels_without_a_value_count_only_where_the_mask_lets_them(tmp_path):
    frames = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    frames[1, 2, 2] = np.nan
    data = read_any(cxi(tmp_path / "masked.cxi", data=frames))
    assert data.frames[1, 2, 2] == 0
    assert not data.mask[2, 2]
    frames[1, 2, 3] = np.nan
    with pytest.raises(DatasetError, match="not finite"):
        read_any(cxi(tmp_path / "unmasked.cxi", data=frames))


FAR = Overrides(1e-10, 2.0, 1e-4, far_field=True, zero_in_corner=True)


def test_far_field_frames_come_with_zero_frequency_in_the_middle(tmp_path):
    path = far_field_npz(tmp_path / "star.npz", mask=np.eye(6))
    data = read_any(path, FAR)
    with np.load(path) as archive:
        frames, scan = archive["data"][0], archive["scan"][0]
    np.testing.assert_array_equal(data.frames[:, 3, 3], frames[:, 0, 0])
    np.testing.assert_array_equal(data.frames, np.fft.fftshift(frames, axes=(1, 2)))
    np.testing.assert_array_equal(data.mask, np.fft.fftshift(np.eye(6) == 0))
    assert data.geometry.far_field
    pitch = 1e-10 * 2.0 / (6 * 1e-4)
    np.testing.assert_allclose(data.positions_m, scan * pitch)
    assert read_probe(path).shape == (2, 6, 6)


@pytest.mark.parametrize("form", list(ExchangeFormat))
def test_what_is_known_of_the_far_field_survives_an_export(tmp_path, form):
    data = read_any(far_field_npz(tmp_path / "star.npz"), FAR)
    copy = tmp_path / f"copy{form.suffixes[0]}"
    export(data, copy, form)
    again = read_any(copy, Overrides(far_field=form is ExchangeFormat.PTYLAB))
    np.testing.assert_array_equal(again.frames, data.frames)
    assert again.geometry == data.geometry


def test_far_field_options_that_contradict_are_refused(tmp_path):
    path = far_field_npz(tmp_path / "star.npz")
    for overrides, match in (
        (replace(FAR, far_field=False), "add --far-field"),
        (replace(FAR, focus_to_sample_m=1e-3), "near field"),
    ):
        with pytest.raises(DatasetError, match=match):
            read_any(path, overrides)
    with pytest.raises(DatasetError, match=r"mask has shape \(3, 3\), its frames \(6, 6\)"):
        read_any(far_field_npz(tmp_path / "mask.npz", mask=np.zeros((3, 3))), FAR)
    with pytest.raises(DatasetError, match="holds no probe"):
        read_probe(cxi(tmp_path / "none.cxi"))
    with pytest.raises(DatasetError, match="expected square modes"):
        read_probe(far_field_npz(tmp_path / "probe.npz", probe=np.ones((4, 6), np.complex64)))
