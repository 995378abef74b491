"""Frames that stay in their file: the same numbers, read ahead, held as far as a budget goes."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from recon.calibrate import CalibrationSettings, calibrate, lit_window
from recon.dataset import DatasetError, Ptychogram, turned
from recon.files.frames import Hdf5Frames
from recon.files.imports import Overrides, open_any, read_any
from recon.fit import order_of
from recon.illumination import lit_points
from recon.streaming import (
    AHEAD,
    ArrayFrames,
    Electrons,
    Hold,
    Streamed,
    ahead,
    available_memory,
    frame_budget,
    sums_of,
)
from tests.recon.scans import bright_scan

SHORT = CalibrationSettings(probe_diameter_m=280e-6, warm_epochs=2, joint_epochs=2, full_epochs=1, polish_epochs=0)
BLACK, GAIN, TOP = 20.0, 0.5, 60000.0


class Counted:
    """Frames of an array that count how often each is read, and fail on demand."""

    def __init__(self, values):
        self.values, self.reads, self.broken = values, [], None

    @property
    def shape(self):
        return self.values.shape

    def raw(self, frame):
        if frame == self.broken:
            raise DatasetError(f"frame {frame} cannot be read")
        self.reads.append(frame)
        return self.values[frame]

    def close(self):
        pass


@pytest.fixture(scope="module")
def pair():
    """The same scan twice: raw counts to be streamed, and electrons in memory."""
    torch.set_num_threads(1)
    scan = bright_scan(count=12).data
    raw = np.clip(np.rint(scan.frames / GAIN + BLACK), 0, 65535).astype(np.uint16)
    raw[3, 40:42, 40] = 65535
    dark = np.full(scan.geometry.shape, BLACK)
    mask = scan.mask.copy()
    mask[50, 50] = False
    frames = ((raw - dark) * GAIN).astype(np.float32)
    held = replace(scan, frames=frames, saturated=raw >= TOP, mask=mask)
    return streamed(held, raw, dark), held


def streamed(data, raw, dark, source=ArrayFrames):
    names = ("positions_m", "exposures_s", "geometry", "dark_variance", "mask", "indices", "name", "empty")
    kept = {name: getattr(data, name) for name in (*names, "empty_exposure_s")}
    electrons = Electrons(GAIN, (dark,), saturation=TOP)
    return Streamed(source(raw), electrons, np.arange(len(raw)), **kept)


def same(a, b):
    frames, clipped = a.read(range(len(a)))
    np.testing.assert_allclose(frames, b.frames, rtol=1e-6)
    expected = np.zeros(b.frames.shape, bool) if b.saturated is None else b.saturated
    np.testing.assert_array_equal(np.zeros(frames.shape, bool) if clipped is None else clipped, expected)
    for name in ("positions_m", "exposures_s", "dark_variance", "mask", "indices", "empty"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6)
    assert a.geometry == b.geometry


def test_frames_from_a_source_are_those_in_memory(pair):
    there, here = pair
    same(there, here)
    same(there.crop((64, 48)), here.crop((64, 48)))
    same(there.binned(2), here.binned(2))
    same(there.crop((64, 64)).binned(4), here.crop((64, 64)).binned(4))
    same(there.binned(2).crop((24, 24)), here.binned(2).crop((24, 24)))
    same(there.select(np.array([5, 3])), here.select(np.array([5, 3])))
    loaded = there.load()
    assert isinstance(loaded, Ptychogram)
    np.testing.assert_array_equal(loaded.frames, here.frames)
    assert there.nbytes == here.frames.nbytes
    with pytest.raises(DatasetError, match="leaves the frame"):
        there.crop((97, 96))
    with pytest.raises(DatasetError, match="cannot be binned by 5"):
        there.binned(5)
    with pytest.raises(DatasetError, match="exposures_s has shape"):
        replace(there, exposures_s=np.ones(3))


def test_one_pass_finds_light_window_and_clipped_pixels(pair):
    there, here = pair
    sums = sums_of(there)
    assert sums.clipped
    good = here.mask & ~here.saturated
    np.testing.assert_allclose(sums.total, here.frames.sum(0, dtype=np.float64))
    np.testing.assert_allclose(sums.light, np.where(good, here.frames, 0).sum((1, 2), dtype=np.float64))
    assert lit_window(there, 0.95, sums) == lit_window(here, 0.95)
    assert lit_points(there).all()
    coarse = sums.level((64, 64), 2)
    np.testing.assert_allclose(coarse.mean, here.crop((64, 64)).binned(2).frames.mean(0), rtol=1e-4)


@pytest.mark.parametrize("memory", [0, 12 * 96 * 96 * 2, 1e9], ids=["nothing held", "some held", "all held"])
def test_a_streamed_calibration_is_that_in_memory(pair, memory):
    there, here = pair
    settings = replace(SHORT, lit_energy=0.9)
    far, near = calibrate(there, settings, memory_bytes=memory), calibrate(here, settings)
    np.testing.assert_allclose(far.loss, near.loss, rtol=1e-5)
    np.testing.assert_allclose(far.distance_m, near.distance_m, atol=1e-9)
    np.testing.assert_allclose(far.illumination.positions_m, near.illumination.positions_m, atol=1e-9)
    assert np.linalg.norm(far.object - near.object) < 2e-5 * np.linalg.norm(near.object)
    assert ("streamed" in far.plan[-1]) == (memory < 1e9)
    assert "streamed" not in near.plan[-1]


def test_a_checkpoint_of_frames_in_memory_goes_on_with_streamed_ones(pair, tmp_path):
    there, here = pair
    path, seen = tmp_path / "state", []
    calibrate(here, SHORT, report=seen.append, stop=lambda: len(seen) == 3, checkpoint=path)
    resumed = calibrate(there, SHORT, checkpoint=path, memory_bytes=0)
    np.testing.assert_allclose(resumed.loss, calibrate(here, SHORT).loss, rtol=1e-5)


def test_batches_come_in_order_and_each_frame_is_read_once_where_it_can_be_held(pair):
    _, here = pair
    raw = np.rint(here.frames / GAIN + BLACK).clip(0).astype(np.uint16)
    there = streamed(here, raw, np.full(raw.shape[1:], BLACK), Counted)
    batches = [[3, 1, 4], [0, 5, 9], [2, 6, 8], [7]]
    hold = Hold(there, 10**9)
    for _ in range(2):
        for batch, (frames, _clipped) in zip(batches, ahead(there, batches, hold), strict=True):
            np.testing.assert_allclose(frames, here.frames[batch], rtol=1e-6)
    assert there.source.reads == [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    few = Hold(there, 5 * 4 * 96 * 96)
    for _ in range(2):
        assert sum(len(frames) for frames, _ in ahead(there, batches, few)) == 10
    assert len(few) == 4
    assert there.source.reads[10:] == [3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 5, 9, 2, 6, 8, 7]


def test_a_frame_that_cannot_be_read_ends_the_loop_and_leaves_no_thread(pair):
    _, here = pair
    there = streamed(here, here.frames, np.zeros(here.geometry.shape), Counted)
    there.source.broken = 7
    before = threading.active_count()
    with pytest.raises(DatasetError, match="frame 7 cannot be read"):
        calibrate(there, SHORT, memory_bytes=0)
    batches = [[k] for k in range(7)]
    reading = ahead(there, batches)
    next(reading)
    reading.close()
    assert threading.active_count() == before
    there.source.values = np.full_like(here.frames, np.nan)
    with pytest.raises(DatasetError, match="small scan: frames contain values that are not finite"):
        there.read([0])


def test_memory_follows_the_batch_and_not_the_scan(pair):
    _, here = pair
    many = np.broadcast_to(here.frames[:1], (3000, 96, 96))
    scan = replace(
        streamed(here, many[:12], np.zeros((96, 96))),
        source=ArrayFrames(many),
        chosen=np.arange(3000),
        positions_m=np.zeros((3000, 2)),
        exposures_s=np.ones(3000),
        indices=np.arange(3000),
    )
    tracemalloc.start()
    try:
        for _ in ahead(scan, [list(range(k, k + 4)) for k in range(0, 3000, 4)], Hold(scan, 2**20)):
            pass
        streaming = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        sums_of(scan)
        adding = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scan.nbytes > 110e6
    # Buffers of four frames, what is held, and a frame on its way.
    assert streaming < (AHEAD + 1) * 4 * 4 * 96 * 96 + 2**20 + 2e6
    assert adding < 45e6


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (13, 4), (7, 1), (5, 5), (98, 4)])
def test_an_epoch_takes_every_frame_once_and_steps_share_out_equally(count, batch):
    steps = order_of(count, batch, seed=3, number=2)
    assert sorted(int(k) for step in steps for k in step) == list(range(count))
    assert all(len(step) == batch for step in steps[:-1])
    assert all(len({int(k) % batch for k in step}) == len(step) for step in steps)
    again, other = order_of(count, batch, seed=3, number=2), order_of(count, batch, seed=3, number=3)
    assert all(torch.equal(a, b) for a, b in zip(steps, again, strict=True))
    assert count < 12 or not all(torch.equal(a, b) for a, b in zip(steps, other, strict=True))


def test_frames_of_hdf5_and_npz_stay_in_their_file(pair, tmp_path):
    _, here = pair
    values = np.arange(5 * 6 * 8, dtype=np.uint16).reshape(5, 6, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = values
    for orientation in range(8):
        source = Hdf5Frames(h5py.File(tmp_path / "a.h5", "r")["frames"], orientation)
        expected = turned(values, orientation)
        assert source.shape == expected.shape
        np.testing.assert_array_equal(source.raw(3), expected[3])
        source.close()
    with pytest.raises(DatasetError, match="frame 3 cannot be read"):
        source.raw(3)
    known = {"positions_m": here.positions_m, "wavelength_m": 561e-9, "distance_m": 0.01, "pixel_size_m": 8e-6}
    np.savez(tmp_path / "b.npz", frames=here.frames, **known)
    np.savez_compressed(tmp_path / "c.npz", frames=here.frames, **known)
    with open_any(tmp_path / "b.npz", Overrides()) as mapped:
        assert isinstance(mapped.source.values, np.memmap)
        np.testing.assert_array_equal(mapped.read([2, 7])[0], here.frames[[2, 7]])
    for name in ("b.npz", "c.npz"):
        np.testing.assert_array_equal(read_any(tmp_path / name).frames, here.frames)


def test_the_budget_is_what_was_asked_for_or_half_of_what_is_free():
    assert frame_budget(3e9, processes=4) == 3_000_000_000
    free = available_memory()
    assert 0 < frame_budget(None, processes=2) < free
