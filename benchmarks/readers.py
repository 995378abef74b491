"""Whether other programs' own readers open what this one writes: exports and runs themselves.

    python -m benchmarks.readers [--write]

Runs a tiny simulated scan, exports it, and reads the files back with cdtools, PtyLab, ptychodus and ptypy, where they
are installed (see benchmarks/README.md), comparing frames, positions and geometry with what was exported. A program
that is not there says so. `--write` appends the result to RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from app.acquire.scan import Scan
from app.exchange import export_run
from app.profile import load_profile
from benchmarks.report import append_rows
from recon.dataset import Ptychogram
from recon.files.read import open_run

Check = Callable[[Path, Ptychogram], None]


def cdtools_cxi(path: Path, data: Ptychogram) -> None:
    """`Ptycho2DDataset.from_cxi`; cdtools moves the optics, so it reverses the positions, and cuts negatives off."""
    from cdtools.datasets import Ptycho2DDataset

    read = Ptycho2DDataset.from_cxi(path)
    np.testing.assert_allclose(read.patterns.numpy(), np.maximum(data.frames, 0))
    np.testing.assert_allclose(read.translations.numpy()[:, 1::-1], -data.positions_m, atol=1e-10)
    np.testing.assert_array_equal(read.mask.numpy(), data.mask)
    np.testing.assert_allclose(read.wavelength.item(), data.geometry.wavelength_m, rtol=1e-6)
    np.testing.assert_allclose(read.detector_geometry["distance"].item(), data.geometry.distance_m, rtol=1e-6)


def ptychodus_cxi(path: Path, data: Ptychogram) -> None:
    """ptychodus' CXI plug-in: patterns, bad pixels and geometry; positions through its product reader's rule."""
    from ptychodus.plugins.cxi_file import CXIDiffractionFileReader, CXIProductFileIO

    read = CXIDiffractionFileReader().read(path)
    np.testing.assert_allclose(np.concatenate([a.get_patterns() for a in read]), data.frames)
    np.testing.assert_array_equal(read.get_bad_pixels(), ~data.mask)
    about = read.get_metadata()
    assert about.detector_distance_m is not None
    np.testing.assert_allclose(about.detector_distance_m, data.geometry.distance_m)
    assert about.detector_pixel_geometry is not None
    np.testing.assert_allclose(about.detector_pixel_geometry.width_m, data.geometry.pixel_size_m)
    import h5py

    with h5py.File(path, "r") as file:
        positions = CXIProductFileIO()._read_positions(file)
    np.testing.assert_allclose(positions.get_coordinates_y_m(), data.positions_m[:, 0], atol=1e-12)
    np.testing.assert_allclose(positions.get_coordinates_x_m(), data.positions_m[:, 1], atol=1e-12)


def ptylab_hdf5(path: Path, data: Ptychogram) -> None:
    """`ExperimentalData`; PtyLab has no mask, so bad pixels read zero."""
    from PtyLab.ExperimentalData.ExperimentalData import ExperimentalData

    with contextlib.redirect_stdout(io.StringIO()):
        read = ExperimentalData(str(path))
    np.testing.assert_allclose(read.ptychogram, np.where(data.mask, data.frames, 0))
    np.testing.assert_allclose(read.encoder, data.positions_m)
    np.testing.assert_allclose([read.wavelength, read.zo, read.dxd], _geometry(data))


def ptylab_run(path: Path, data: Ptychogram) -> None:
    """The run itself: raw counts, through the aliases at its root."""
    from PtyLab.ExperimentalData.ExperimentalData import ExperimentalData

    with contextlib.redirect_stdout(io.StringIO()):
        read = ExperimentalData(str(path))
    with open_run(path) as run:
        np.testing.assert_array_equal(read.ptychogram, run.raw())
    np.testing.assert_allclose(read.encoder, data.positions_m)


def cdtools_run(path: Path, data: Ptychogram) -> None:
    """The run itself: raw counts, with the mean dark as cdtools' background."""
    from cdtools.datasets import Ptycho2DDataset

    read = Ptycho2DDataset.from_cxi(path)
    with open_run(path) as run:
        np.testing.assert_array_equal(read.patterns.numpy(), run.raw())
    np.testing.assert_allclose(read.translations.numpy()[:, 1::-1], -data.positions_m, atol=1e-10)
    assert read.background is not None


def ptychodus_run(path: Path, data: Ptychogram) -> None:
    """The run itself through ptychodus' CXI plug-in."""
    from ptychodus.plugins.cxi_file import CXIDiffractionFileReader

    read = CXIDiffractionFileReader().read(path)
    with open_run(path) as run:
        np.testing.assert_array_equal(np.concatenate([a.get_patterns() for a in read]), run.raw())


def ptypy_cxi(path: Path, data: Ptychogram) -> None:
    """ptypy's `Hdf5Loader` with the recipe of docs/real-data.md."""
    from ptypy import utils
    from ptypy.experiment.hdf5_loader import Hdf5Loader

    def at(key: str, **more: object) -> object:
        return utils.Param(file=str(path), key=f"entry_1/{key}", **more)

    translation = "entry_1/data_1/translation"
    recipe = utils.Param(
        name="Hdf5Loader",
        intensities=at("data_1/data"),
        positions=utils.Param(file=str(path), slow_key=translation, slow_index=1, fast_key=translation, fast_index=0),
        mask=at("instrument_1/detector_1/mask", invert=True),
        recorded_energy=at("instrument_1/source_1/energy", multiplier=1 / 1.602176634e-16),
        recorded_distance=at("instrument_1/detector_1/distance", multiplier=1.0),
        recorded_psize=at("instrument_1/detector_1/x_pixel_size", multiplier=1.0),
        auto_center=False,
    )
    loader = Hdf5Loader(pars=recipe)
    loader.initialize()
    read = loader.auto(len(data))
    frames = read["iterable"]
    np.testing.assert_allclose([frame["data"] for frame in frames], data.frames)
    np.testing.assert_allclose([frame["position"] for frame in frames], data.positions_m)
    np.testing.assert_array_equal(frames[0]["mask"].astype(bool), data.mask)
    common = read["common"]
    np.testing.assert_allclose(
        [common["distance"], common["psize"][0]], [data.geometry.distance_m, data.geometry.pixel_size_m]
    )


def _geometry(data: Ptychogram) -> list[float]:
    g = data.geometry
    return [g.wavelength_m, g.distance_m, g.pixel_size_m]


def _version(module: str, package: str) -> str:
    """Of an installed package, or of a source tree that is only on the path."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules[module], "__version__", "of unknown version"))


CHECKS: tuple[tuple[str, str, str, Check], ...] = (
    ("cdtools", "cdtools-py", "export.cxi", cdtools_cxi),
    ("cdtools", "cdtools-py", "run.h5", cdtools_run),
    ("ptychodus", "ptychodus", "export.cxi", ptychodus_cxi),
    ("ptychodus", "ptychodus", "run.h5", ptychodus_run),
    ("ptypy", "ptypy", "export.cxi", ptypy_cxi),
    ("PtyLab", "ptylab", "export.hdf5", ptylab_hdf5),
    ("PtyLab", "ptylab", "run.h5", ptylab_run),
)


def make_files(folder: Path) -> Ptychogram:
    """A tiny run and its exports in `folder`; the run's data."""
    scan = Scan.new(load_profile("tiny"), folder / "run.h5", seed=1)
    with scan.devices:
        scan.runner().run()
    export_run(scan.path, folder / "export.cxi", "cxi", None, nominal=False)
    export_run(scan.path, folder / "export.hdf5", "ptylab", None, nominal=False)
    with open_run(scan.path) as run:
        return run.ptychogram()


def main() -> int:
    """Print a line per reader; the exit code counts failures, and 77 says that nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    write = parser.parse_args().write
    rows, failed, tried = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_files(folder)
        for module, package, file, check in CHECKS:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    importlib.import_module(module)
            except ImportError as error:
                result = f"not measured ({error})"
            else:
                tried += 1
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        check(folder / file, data)
                    result = "the same frames, positions and geometry"
                except Exception as error:  # whatever a reader dislikes is a finding
                    failed += 1
                    result = f"FAILED: {' '.join(str(error).split())[:160]}"
                module = f"{module} {_version(module, package)}"
            print(f"{module:<18} {file:<12} {result}")
            rows.append((f"{module} reads {file}", result, "the same frames and positions"))
    if write:
        append_rows("python -m benchmarks.readers", rows)
    return failed if tried else 77


if __name__ == "__main__":
    sys.exit(main())
