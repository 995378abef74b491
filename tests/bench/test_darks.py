"""Darks are dark, say what the sensor is, and serve later scans."""

import h5py
import numpy as np
import pytest

from app.acquire.planning import exposures_with_darks
from app.acquire.scan import Scan
from app.bench.darks import NotDarkError, SensorGuess, record_darks, require_dark
from app.profile import load_profile
from drivers.base import Cancelled, LightState
from recon.dataset import DatasetError
from recon.files import schema
from recon.files.dark_sets import read_dark_set, write_dark_set
from recon.files.read import open_run
from tests.bench.rigs import bench, changed

TINY = load_profile("tiny")


def recorded(profile=TINY, seed=0, frames=12, exposures=None):
    with bench(profile, seed) as session:
        return record_darks(session, exposures or exposures_with_darks(profile), frames, 2, 1.7e9)


def test_offset_noise_and_dark_current_come_out_with_their_errors():
    profile = changed("tiny", camera__dark_current_e_s=3.0, camera__hot_pixels=4)
    dark_set, report = recorded(profile, frames=30, exposures=(1e-3, 0.1, 0.5, 1.0))
    assert report.dark_current_e_s == pytest.approx(3.0, abs=5 * report.dark_current_error_e_s)
    assert report.dark_current_error_e_s < 0.02
    assert report.read_noise_e == pytest.approx(0.3, rel=0.02)
    assert report.bias_adu == pytest.approx(200, abs=0.05)
    assert report.lines[-1].hot_pixels >= 3
    noise = np.sqrt(0.09 + 3.0)
    assert report.lines[-1].noise_e == pytest.approx(noise, rel=0.03)
    assert sorted(dark_set.darks) == [1e-3, 0.1, 0.5, 1.0]


def test_darks_at_analogue_gain_are_told_in_electrons():
    dark_set, report = recorded(changed("tiny", camera__gain_db=24.0), frames=30, exposures=(1e-3,))
    assert dark_set.electrons_per_adu == pytest.approx(0.11 / 10**1.2, rel=1e-6)
    assert report.read_noise_e == pytest.approx(0.3, rel=0.02)


class DeadShutter:
    """A light that says that it obeyed."""

    state = LightState.UNKNOWN

    def __init__(self, inside):
        self.inside = inside

    def open(self):
        self.inside.open()

    def close(self):
        self.inside.close()

    def block(self):
        self.state = LightState.BLOCKED

    def unblock(self):
        self.state = LightState.OPEN

    def describe(self):
        return {}


def test_a_dark_that_is_not_dark_is_refused_with_numbers():
    from dataclasses import replace

    with bench(TINY) as session:
        lying = replace(session, devices=replace(session.devices, light=DeadShutter(session.devices.light)))
        with pytest.raises(NotDarkError, match=r"not dark: at .* electrons a pixel above .* block the beam") as error:
            record_darks(lying, (0.3,), 4, 0, 0.0)
    assert "\n" not in str(error.value)


GUESS = SensorGuess(200, 0.11, 0.3, 0.006)


@pytest.mark.parametrize("share", [1.0, 0.01, 1e-3])
def test_a_leak_of_a_thousandth_of_the_beam_is_seen(share):
    profile = changed("tiny", light__photons_per_second=3.3e6 * share)
    with bench(profile) as session:
        lit = session.mean_frame(0.3, 2, 0)
        session.light(LightState.BLOCKED)
        dark = session.mean_frame(0.3, 2, 10)
    require_dark({0.3: dark}, 2, GUESS)
    with pytest.raises(NotDarkError):
        require_dark({0.3: lit}, 2, GUESS)


def test_a_room_that_is_not_dark_is_seen_by_its_growth():
    rng = np.random.default_rng(0)

    def frame(level):
        return rng.normal(200 + level, 2.7, (64, 64))

    require_dark({1e-3: frame(0), 0.3: frame(0)}, 1, GUESS)
    with pytest.raises(NotDarkError, match="darken the room"):
        require_dark({1e-3: frame(0), 0.3: frame(12)}, 1, GUESS)
    with pytest.raises(NotDarkError, match="above the black level"):
        require_dark({0.3: frame(90)}, 1, GUESS)


def test_stopping_keeps_the_exposures_that_are_complete():
    with bench(TINY) as session:
        taken = []
        acquire = session.devices.camera.acquire

        def counted(cancel):
            taken.append(1)
            session.interrupt.wanted = len(taken) > 15
            return acquire(cancel)

        session.devices.camera.acquire = counted
        dark_set, report = record_darks(session, (1e-3, 0.3), 8, 0, 0.0)
    assert report.interrupted
    assert list(dark_set.darks) == [1e-3]
    with bench(TINY) as session:
        session.interrupt.wanted = True
        with pytest.raises(Cancelled):
            record_darks(session, (1e-3, 0.3), 8, 0, 0.0)


def scanned(path, profile=TINY, **options):
    scan = Scan.new(profile, path, **options)
    with scan.devices:
        scan.runner().run()
    return scan


def test_a_scan_with_earlier_darks_takes_none_and_reads_the_same(tmp_path):
    dark_set, _ = recorded()
    path = tmp_path / "darks.h5"
    write_dark_set(path, dark_set, TINY.model_dump_json())
    scan = scanned(tmp_path / "run.h5", darks=path)
    assert not any(step.stream == "dark" for step in scan.plan.steps)
    again = read_dark_set(path)
    with open_run(scan.path) as run:
        dark = run.dark(2)
        data = run.ptychogram(1)
    assert dark.count == 12
    np.testing.assert_allclose(dark.mean_adu.mean(), again.darks[3e-4].mean.mean(), rtol=1e-6)
    assert np.sqrt(data.dark_variance[data.mask].mean()) == pytest.approx(0.3, rel=0.1)
    # The darks in that run serve as well as the file that they came from, and so do a run's own.
    scanned(tmp_path / "second.h5", darks=scan.path)
    own = scanned(tmp_path / "own.h5")
    scanned(tmp_path / "third.h5", darks=own.path)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"seed": 1}, r"serial 'sim-0' instead of 'sim-1'"),
        ({"scan__calibration_exposure_s": 0.2}, {}, r"no darks of 0\.2 s; it has 0\.0003, 0\.03, 0\.3 s"),
        ({"camera__shape": (96, 96)}, {}, r"region .*128, 128.* instead of .*96, 96"),
        ({"camera__black_level_adu": 220}, {}, r"black level 200 adu instead of 220 adu; record new ones"),
        ({"camera__bit_depth": 12, "camera__electrons_per_adu": 1.76}, {}, r"bit depth 16 instead of 12; record"),
    ],
)
def test_darks_of_something_else_are_refused_by_name(tmp_path, change, options, words):
    dark_set, _ = recorded()
    path = tmp_path / "darks.h5"
    write_dark_set(path, dark_set, "{}")
    with pytest.raises(DatasetError, match=words) as error:
        scanned(tmp_path / "run.h5", changed("tiny", **change), darks=path, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.h5").exists()


def without(path, *names):
    """The file as an older version wrote it."""
    with h5py.File(path, "r+") as file:
        found = []
        file.visit(lambda name: found.append(name) if name.rsplit("/", 1)[-1] in names else None)
        for name in found:
            del file[name]


def test_darks_of_a_run_are_held_to_its_black_level_and_bits_too(tmp_path):
    own = scanned(tmp_path / "own.h5")
    with pytest.raises(DatasetError, match="black level 200 adu instead of 220 adu"):
        scanned(tmp_path / "run.h5", changed("tiny", camera__black_level_adu=220), darks=own.path)
    with open_run(own.path) as run:
        assert run.camera.bit_depth == 16
    # An older run says how many bits only in its profile.
    without(own.path, schema.BIT_DEPTH)
    with pytest.raises(DatasetError, match="bit depth 16 instead of 12"):
        scanned(
            tmp_path / "run.h5", changed("tiny", camera__bit_depth=12, camera__electrons_per_adu=1.76), darks=own.path
        )
    scanned(tmp_path / "second.h5", darks=own.path)


def test_darks_of_an_older_version_serve_as_far_as_they_say_what_they_are(tmp_path):
    dark_set, _ = recorded()
    path = tmp_path / "darks.h5"
    write_dark_set(path, dark_set, TINY.model_dump_json())
    without(path, schema.BLACK_LEVEL, schema.BIT_DEPTH)
    again = read_dark_set(path)
    assert np.isnan(again.black_level_adu)
    assert again.bit_depth == 16
    scanned(tmp_path / "run.h5", changed("tiny", camera__black_level_adu=201), darks=path)


def test_dark_files_are_written_once_and_are_no_runs(tmp_path):
    dark_set, _ = recorded(exposures=(0.3,))
    path = tmp_path / "darks.h5"
    write_dark_set(path, dark_set, "{}")
    with pytest.raises(DatasetError, match="exists already"):
        write_dark_set(path, dark_set, "{}")
    with pytest.raises(DatasetError, match="not a run"):
        open_run(path)
    with pytest.raises(DatasetError, match=r"\.h5"):
        write_dark_set(tmp_path / "darks.png", dark_set, "{}")
    again = read_dark_set(path)
    np.testing.assert_array_equal(again.darks[0.3].raw, dark_set.darks[0.3].raw)
    assert (again.serial, again.region, again.recorded) == (dark_set.serial, dark_set.region, dark_set.recorded)
