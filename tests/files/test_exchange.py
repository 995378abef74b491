"""Data for other programs and from them: what is written is read back, and a source never changes."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli import app
from app.errors import UsageError
from app.exchange import export_run
from recon.dataset import DatasetError, Geometry, Ptychogram
from recon.files.exchange import ExchangeFormat, Solution, bad_pixels, export
from recon.files.imports import Overrides, read_any
from recon.files.mapping import FieldMap, PositionOrder, PositionUnit
from recon.files.read import open_run
from recon.files.results import StoredCalibration, store_calibration
from recon.files.schema import ATTR_CREATOR, CREATOR
from tests.acquire.fakes import FakeBench

GEOMETRY = Geometry(561e-9, 65e-3, 6.9e-6, (6, 6))


def some_data(seed: int = 0, shape: tuple[int, int] = (6, 6)) -> Ptychogram:
    rng = np.random.default_rng(seed)
    saturated = np.zeros((4, *shape), bool)
    saturated[2, 1, 1] = True
    mask = np.ones(shape, bool)
    mask[0, 3] = False
    return Ptychogram(
        frames=rng.normal(20, 10, (4, *shape)).astype(np.float32),
        positions_m=rng.normal(0, 1e-4, (4, 2)),
        exposures_s=np.full(4, 0.3),
        geometry=replace(GEOMETRY, shape=shape),
        dark_variance=np.full(shape, 0.09, np.float32),
        mask=mask,
        name="some data",
        saturated=saturated,
        empty=rng.uniform(0, 9, shape).astype(np.float32),
        empty_exposure_s=0.3,
    )


@pytest.mark.parametrize(("form", "suffix"), [("cxi", ".cxi"), ("ptylab", ".hdf5"), ("npz", ".npz")])
def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch, form, suffix):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    with pytest.raises(OSError, match=r"needs 4 MB, 1 MB are free.*data") as caught:
        export(some_data(), tmp_path / f"data{suffix}", ExchangeFormat(form))
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "suffix"), [("cxi", ".cxi"), ("ptylab", ".hdf5"), ("npz", ".npz")])
def test_what_is_exported_is_imported_again(tmp_path, form, suffix):
    data = some_data()
    path = tmp_path / f"data{suffix}"
    export(data, path, ExchangeFormat(form))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    back = read_any(path)
    np.testing.assert_allclose(back.positions_m, data.positions_m, rtol=1e-12)
    assert back.geometry == data.geometry
    bad = bad_pixels(data)
    assert bad.sum() == 2  # the dead pixel, and the one that was clipped in one frame
    np.testing.assert_array_equal(back.frames[:, ~bad], data.frames[:, ~bad])
    if form == "ptylab":
        assert (back.frames[:, bad] == 0).all()
    else:
        np.testing.assert_array_equal(back.mask, ~bad)
        assert back.exposures_s == pytest.approx(0.3)


def test_a_cxi_file_says_what_other_readers_look_for(tmp_path):
    path = tmp_path / "data.cxi"
    solution = Solution(np.ones((4, 4), np.complex64), np.ones((8, 8), np.complex64), 500e-6)
    export(some_data(), path, ExchangeFormat.CXI, solution)
    with h5py.File(path) as file:
        assert file["cxi_version"][()] == 160
        entry = file["entry_1"]
        assert entry["data_1/data"][...].shape == (4, 6, 6)
        assert entry["data_1/data"].attrs["axes"] == b"translation:y:x"
        np.testing.assert_allclose(entry["data_1/translation"][...][:, 1::-1], some_data().positions_m)
        joules = 6.62607015e-34 * 299792458 / 561e-9
        assert entry["instrument_1/source_1/energy"][()] == pytest.approx(joules)
        assert entry["instrument_1/source_1/wavelength"][()] == pytest.approx(561e-9)
        assert entry["instrument_1/source_1/illumination"].shape == (1, 4, 4)
        assert entry["image_2/data"].shape == (1, 8, 8)
        assert set(np.unique(entry["instrument_1/detector_1/mask"])) == {0, 1}


def test_an_export_is_refused_without_a_trace(tmp_path):
    data = some_data()
    with pytest.raises(DatasetError, match=r"must end in \.cxi"):
        export(data, tmp_path / "data.tif", ExchangeFormat.CXI)
    with pytest.raises(DatasetError, match="PtyLab takes square ones"):
        export(some_data(shape=(6, 4)), tmp_path / "data.hdf5", ExchangeFormat.PTYLAB)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.cxi").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="exists already"):
        export(data, tmp_path / "data.cxi", ExchangeFormat.CXI)
    assert (tmp_path / "data.cxi").read_bytes() == b"mine"


def ptylab(path: Path, **extra) -> Path:
    with h5py.File(path, "w") as file:
        content = {
            "ptychogram": np.arange(48.0).reshape(3, 4, 4),
            "encoder": np.arange(6.0).reshape(3, 2),
            "wavelength": [[5e-7]],
            "zo": 0.06,
            "dxd": 5e-6,
        }
        for name, value in (content | extra).items():
            file[name] = value
    return path


@pytest.mark.parametrize("orientation", range(8))
def test_a_ptylab_file_is_turned_as_it_says(tmp_path, orientation):
    """Against PtyLab's rule written out: transposed from 4 on, then 1 and 3 flip columns, 2 and 3 rows."""
    frames = np.arange(48.0).reshape(3, 4, 4)
    wanted = frames.transpose(0, 2, 1) if orientation >= 4 else frames
    wanted = {0: wanted, 1: wanted[:, :, ::-1], 2: wanted[:, ::-1], 3: wanted[:, ::-1, ::-1]}[orientation % 4]
    background = np.arange(16.0).reshape(4, 4)
    path = ptylab(tmp_path / "turned.hdf5", orientation=orientation, background=background)
    turned = read_any(path)
    plain = read_any(ptylab(tmp_path / "plain.hdf5", orientation=orientation))
    np.testing.assert_array_equal(plain.frames, wanted)
    dark = plain.frames - turned.frames
    assert (dark == dark[0]).all()
    assert sorted(dark[0].ravel()) == list(range(16))
    np.testing.assert_array_equal(dark[0], wanted[0])  # the background is turned with the frames: here it equals one


def test_an_impossible_orientation_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="orientation 9"):
        read_any(ptylab(tmp_path / "odd.hdf5", orientation=9))


# ---- Mappings --------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**16),
    order=st.sampled_from(list(PositionOrder)),
    unit=st.sampled_from(list(PositionUnit)),
    reverse=st.booleans(),
    apart=st.booleans(),
    good=st.integers(0, 1),
)
def test_any_layout_is_read_when_it_is_said(tmp_path_factory, seed, order, unit, reverse, apart, good):
    data = some_data(seed)
    path = tmp_path_factory.mktemp("mapped") / "odd.h5"
    scale = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "px": GEOMETRY.pixel_size_m}[unit.value]
    stored = data.positions_m / scale * (-1 if reverse else 1)
    with h5py.File(path, "w") as file:
        file["raw/frames"] = data.frames + 7
        file["raw/dark"] = np.full((3, 6, 6), 7.0)
        file["raw/mask"] = np.where(data.mask, good, 1 - good)
        file["raw/t"] = data.exposures_s
        file["energy"] = 1.23984198e-6 / 561e-9
        if apart:
            file["y"], file["x"] = stored[:, 0], stored[:, 1][:, None]
        else:
            file["xy"] = stored if order is PositionOrder.YX else stored[:, ::-1]
    places = ["frames=/raw/frames", "background=/raw/dark", "mask=/raw/mask", "exposures=raw/t"]
    places += ["energy_ev=/energy", "distance=65e-3", f"pixel_size={GEOMETRY.pixel_size_m}"]
    places += ["y=/y", "x=/x"] if apart else ["positions=/xy"]
    back = read_any(path, Overrides(fields=FieldMap.parse(places, order, unit, reverse, good)))
    np.testing.assert_allclose(back.frames, data.frames, atol=1e-4)
    np.testing.assert_allclose(back.positions_m, data.positions_m, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(back.mask, data.mask)
    assert back.exposures_s == pytest.approx(0.3)
    assert back.geometry.wavelength_m == pytest.approx(561e-9, rel=1e-6)
    assert back.geometry.distance_m == pytest.approx(65e-3)


def several_exposures(path: Path) -> Path:
    """Three frames at each of two exposures in one stack, as in the authors' published data."""
    with h5py.File(path, "w") as file:
        file["ptychogram"] = np.arange(6 * 16.0).reshape(6, 4, 4)
        file["encoder"] = np.repeat(np.arange(6.0).reshape(3, 2) * 1e-4, 2, axis=0)
        file["exposure_index"] = np.array([0, 1, 0, 1, 0, 1])
        file["zo"], file["dxd"], file["wavelength"] = 0.065, 3.45e-6, 561e-9
    return path


PLACES = ["frames=ptychogram", "positions=encoder", "distance=zo", "pixel_size=dxd", "wavelength=wavelength"]


def test_options_that_a_file_of_that_kind_would_not_read_are_refused(tmp_path):
    run, archive = tmp_path / "run.h5", tmp_path / "a.npz"
    with h5py.File(run, "w") as file:
        file.attrs[ATTR_CREATOR] = CREATOR
    with pytest.raises(DatasetError, match="a run knows its own geometry and noise"):
        read_any(run, Overrides(wavelength_m=1e-7))
    mapping = FieldMap.parse(["frames=/x", "positions=/y"], PositionOrder.YX, PositionUnit.METRES, False, 0, None)
    with pytest.raises(DatasetError, match="leave --map out"):
        read_any(archive, Overrides(fields=mapping))


def test_one_exposure_of_several_is_chosen(tmp_path):
    path = several_exposures(tmp_path / "authors.hdf5")
    chosen = read_any(path, Overrides(fields=FieldMap.parse(PLACES, where="/exposure_index=1")))
    np.testing.assert_array_equal(chosen.frames, np.arange(96.0).reshape(6, 4, 4)[1::2])
    np.testing.assert_allclose(chosen.positions_m, np.arange(6.0).reshape(3, 2) * 1e-4)


@pytest.mark.parametrize(
    ("places", "where", "message"),
    [
        (["frames"], None, "write NAME=PLACE"),
        (["colour=/red"], None, "with NAME of frames"),
        (["positions=/encoder"], None, "where the frames are"),
        (["frames=/ptychogram", "y=/y"], None, "where the positions are"),
        (PLACES, "exposure_index", "DATASET=NUMBER"),
        (PLACES, "/exposure_index=7", "is never 7; it holds 0, 1"),
        (PLACES, "/zo=0.065", "chooses among 1 frames"),
        (["frames=/nothing", *PLACES[1:]], None, "has no dataset /nothing .*; it has /dxd, /encoder"),
        (["frames=/dxd", *PLACES[1:]], None, "expected real"),
        ([*PLACES[:2], "distance=/encoder", *PLACES[3:]], None, "expected one number"),
        (PLACES[:-1], None, "does not say wavelength_m"),
    ],
)
def test_a_wrong_mapping_is_said_in_one_line(tmp_path, places, where, message):
    path = several_exposures(tmp_path / "authors.hdf5")
    before = path.read_bytes()
    with pytest.raises(DatasetError, match=message) as caught:
        read_any(path, Overrides(fields=FieldMap.parse(places, where=where)))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_of_no_known_kind_says_how_to_map_it(tmp_path):
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(DatasetError, match="ptychoscope import --map frames="):
        read_any(tmp_path / "odd.h5")


# ---- Commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    path = tmp_path / "run.h5"
    FakeBench().run(path)
    return path


def calibrated(path: Path) -> StoredCalibration:
    """A calibration that moves every point by a micrometre and the camera by a millimetre."""
    with open_run(path) as file:
        data = file.ptychogram()
    stored = StoredCalibration(
        probe=np.ones((4, 4), np.complex64),
        probe_pixel_m=data.geometry.pixel_size_m,
        object=np.ones((8, 8), np.complex64),
        object_pixel_m=data.geometry.pixel_size_m,
        distance_m=data.geometry.distance_m + 1e-3,
        positions_m=data.positions_m + 1e-6,
        loss=np.ones(1),
        settings={},
        software={},
    )
    store_calibration(path, stored)
    return stored


def test_a_calibrated_run_is_exported_with_what_was_found(run, tmp_path):
    stored = calibrated(run)
    values = export_run(run, tmp_path / "bright.cxi", "cxi", None, nominal=False)
    assert values["calibrated"]
    back = read_any(tmp_path / "bright.cxi")
    np.testing.assert_allclose(back.positions_m, stored.positions_m, rtol=1e-12)
    assert back.geometry.distance_m == pytest.approx(stored.distance_m)
    with open_run(run) as file:
        points, chosen = file.ptychogram(1).indices, file.ptychogram(3)
    export_run(run, tmp_path / "dark.cxi", "cxi", chosen.exposures_s[0], nominal=False)
    series = read_any(tmp_path / "dark.cxi")
    np.testing.assert_array_equal(series.frames, chosen.frames)
    np.testing.assert_allclose(series.positions_m, stored.positions_m[np.isin(points, chosen.indices)], rtol=1e-12)
    values = export_run(run, tmp_path / "nominal.cxi", "cxi", None, nominal=True)
    assert not values["calibrated"]
    assert read_any(tmp_path / "nominal.cxi").geometry.distance_m == pytest.approx(stored.distance_m - 1e-3)
    with pytest.raises(UsageError, match="format 'tif': known are cxi, ptylab, npz"):
        export_run(run, tmp_path / "x.tif", "tif", None, nominal=False)


def test_the_commands(run, tmp_path):
    out = tmp_path / "made.cxi"
    arguments = ["export", str(run), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["frames"] == len(read_any(out))
    source = several_exposures(tmp_path / "authors.hdf5")
    arguments = [
        "import",
        str(source),
        "--out",
        str(tmp_path / "imported.cxi"),
        "--where",
        "exposure_index=0",
        "--json",
    ]
    arguments += [text for place in PLACES for text in ("--map", place)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["frames"] == 3
    np.testing.assert_array_equal(read_any(tmp_path / "imported.cxi").frames, np.arange(96.0).reshape(6, 4, 4)[::2])
    for wrong, message in (
        (["--order", "zz", "--map", "frames=/x"], "--order 'zz'"),
        (["--unit", "inch", "--map", "frames=/x"], "--unit 'inch'"),
        (["--reverse"], "go with --map"),
    ):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(
                app, ["import", str(source), "--out", str(tmp_path / "no.cxi"), *wrong], catch_exceptions=False
            )
