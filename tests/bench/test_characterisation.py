"""The file with what was measured: written, kept, checked against the devices, and used by runs."""

import errno
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.acquire.planning import make_plan
from app.acquire.preflight import PreflightError
from app.acquire.scan import Scan, check
from app.bench import characterisation
from app.bench.characterisation import CharacterisationError, MeasuredAlignment, MeasuredCamera
from app.devices import open_devices
from app.profile import PROFILES, load_profile
from drivers.base import LimitError
from recon.files.read import open_run
from tests.bench.rigs import changed

TINY = load_profile("tiny")
CAMERA = MeasuredCamera(
    date=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    model="simulated camera",
    serial="sim-0",
    gain_db=0.0,
    electrons_per_adu=0.1234,
    electrons_per_adu_error=1e-4,
    read_noise_e=0.345,
    read_noise_e_error=1e-3,
    offset_adu=200.0,
    exposure_offset_s=1.4e-5,
    exposure_offset_error_s=2e-7,
    linearity=1e-3,
    dark_current_e_s=0.25,
)
ALIGNMENT = MeasuredAlignment(
    date=datetime(2026, 3, 5, tzinfo=UTC),
    stage_serial="sim-0",
    camera_serial="sim-0",
    stage_to_object=((0.0, -1.0), (-1.0, 0.0)),
    centre_m=(12.4e-3, 12.6e-3),
    origin=(8, 16),
    rotation_deg=0.0,
    rotation_error_deg=0.1,
    scale=1.0,
    scale_error=0.01,
    mirrored=True,
)


def test_what_is_written_is_read_and_sections_are_kept(tmp_path):
    path = tmp_path / "characterisation.toml"
    first = characterisation.save(path, TINY, camera=CAMERA)
    assert characterisation.load(path) == first
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    both = characterisation.save(path, TINY, alignment=ALIGNMENT)
    assert both.content.camera == CAMERA
    assert both.content.alignment == ALIGNMENT
    # The earlier file is still there, under its date.
    kept = tmp_path / "characterisation-20260304-050607.toml"
    assert kept.read_text() == first.text
    characterisation.save(path, TINY, camera=CAMERA)
    characterisation.save(path, TINY, camera=CAMERA)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_leaves_the_earlier_file_where_it_was(tmp_path, monkeypatch):
    path = tmp_path / "characterisation.toml"
    before = characterisation.save(path, TINY, camera=CAMERA)
    write_text = Path.write_text

    def full(self, text, **options):
        write_text(self, text[:10], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CharacterisationError, match="No space left"):
        characterisation.save(path, TINY, alignment=ALIGNMENT)
    assert characterisation.load(path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "word"),
    [("format = 1\nprofile = 3", "profile"), ("format = ", "TOML"), ("", "format"), ("speed = 3", "speed|format")],
)
def test_a_wrong_file_is_one_line(tmp_path, text, word):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(CharacterisationError, match=word) as error:
        characterisation.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(CharacterisationError, match="cannot be read"):
        characterisation.load(tmp_path / "none.toml")


def test_measured_numbers_replace_the_profiles():
    content = characterisation.Characterisation(
        format=1, profile="tiny", simulated=True, camera=CAMERA, alignment=ALIGNMENT
    )
    known = content.applied_to(TINY)
    assert known.camera.electrons_per_adu == 0.1234
    assert known.camera.dark_current_e_s == 0.25
    assert known.camera.full_well_e == TINY.camera.full_well_e  # was not reached
    assert known.stage.stage_to_object == ALIGNMENT.stage_to_object
    assert known.camera.origin == (8, 16)
    # What a simulated bench is made from stays: only where to read out changes.
    assert content.for_devices(TINY).camera.electrons_per_adu == TINY.camera.electrons_per_adu
    assert content.for_devices(TINY).stage == TINY.stage


def test_the_file_belongs_beside_the_profile(tmp_path):
    assert characterisation.default_path(str(tmp_path / "mine.toml")) == tmp_path / "characterisation.toml"
    assert characterisation.default_path("quick").parent.name == ""
    assert characterisation.default_path(str(PROFILES / "quick.toml")).parent.name == ""


def test_a_profile_names_its_file_relative_to_itself(tmp_path):
    (tmp_path / "mine.toml").write_text('characterisation = "c.toml"\n' + (PROFILES / "tiny.toml").read_text())
    profile = load_profile(str(tmp_path / "mine.toml"))
    with pytest.raises(CharacterisationError, match=r"c\.toml"):
        characterisation.chosen(profile, None)
    characterisation.save(tmp_path / "c.toml", TINY, camera=CAMERA)
    assert characterisation.chosen(profile, None).content.camera == CAMERA


def run(path, measured, profile=TINY, **options):
    scan = Scan.new(profile, path, measured=measured, **options)
    with scan.devices:
        scan.runner().run()
    return scan


def test_runs_use_it_and_say_which(tmp_path):
    measured = characterisation.save(tmp_path / "c.toml", TINY, camera=CAMERA)
    run(tmp_path / "plain.h5", None)
    run(tmp_path / "run.h5", measured)
    with open_run(tmp_path / "plain.h5") as plain, open_run(tmp_path / "run.h5") as file:
        assert file.characterisation == measured.text
        assert plain.characterisation == ""
        bytes_in_file = bytes(file._get(1, "characterisation_sha256")[()]).decode()
        before, after = plain.ptychogram(2), file.ptychogram(2)
        assert (file.raw(2) == plain.raw(2)).all()
    assert bytes_in_file == measured.sha256
    good = before.mask & after.mask
    assert after.frames[:, good] == pytest.approx(before.frames[:, good] * 0.1234 / 0.11, rel=1e-4, abs=1e-4)
    # The exposure that took place, not the one that the camera reported.
    assert after.exposures_s == pytest.approx(before.exposures_s + 1.4e-5, rel=1e-9)
    # Resuming finds it in the file.
    assert Scan.interrupted(tmp_path / "run.h5").measured.content == measured.content


def test_another_camera_gain_or_stage_is_refused_before_anything_moves(tmp_path):
    measured = characterisation.save(tmp_path / "c.toml", TINY, camera=CAMERA, alignment=ALIGNMENT)
    profile = changed("tiny", simulation__sensor_shape=(160, 192))
    with pytest.raises(Exception, match=r"measured with camera sim-0, connected is sim-4") as error:
        run(tmp_path / "run.h5", measured, profile, seed=4)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.h5").exists()
    scan = run(tmp_path / "ok.h5", measured, profile)
    with scan.devices:
        region = scan.devices.camera.info.region
        assert (region.top, region.left, *region.shape) == (8, 16, 128, 128)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"camera__black_level_adu": 220},
            "measured at a black level of 200 adu, the camera has 220 adu; characterise",
        ),
        (
            {"camera__bit_depth": 12, "light__photons_per_second": 1e5},
            "measured with 16 bits, the camera has 12; characterise",
        ),
    ],
)
def test_a_camera_that_is_set_otherwise_than_it_was_measured_is_refused(tmp_path, change, words):
    known = CAMERA.model_copy(update={"black_level_adu": 200.0, "bit_depth": 16})
    measured = characterisation.save(tmp_path / "c.toml", TINY, camera=known)
    assert characterisation.load(tmp_path / "c.toml").content.camera == known
    with pytest.raises(PreflightError, match=words) as error:
        run(tmp_path / "run.h5", measured, changed("tiny", **change))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.h5").exists()
    # A file of an older version does not say, and is not held to it.
    older = characterisation.save(tmp_path / "older.toml", TINY, camera=CAMERA)
    run(tmp_path / "run.h5", older, changed("tiny", **change))


def test_analogue_gain_counts_in_the_check_unless_it_was_measured():
    profile = changed("tiny", camera__gain_db=24.0)
    with open_devices(profile) as devices:
        plan = make_plan(profile)
        found = [finding.message for finding in check(plan, profile, devices)]
        # (2^16 - 1 - 200) adu of 0.11 electrons / 10^(24/20).
        assert "0.3 s (calibration)" in found[0]
        assert "of 453.46; expose shorter or dim the light" in found[0]
        camera = CAMERA.model_copy(update={"gain_db": 24.0, "electrons_per_adu": 0.12})
        content = characterisation.Characterisation(format=1, profile="tiny", simulated=True, camera=camera)
        assert check(plan, profile, devices, measured=characterisation.Measured("c.toml", "", content)) == []


def test_regions_come_in_steps():
    from tests.bench.rigs import bench

    profile = changed("tiny", simulation__sensor_shape=(160, 192), simulation__region_step=4)
    with bench(profile) as session:
        camera = session.devices.camera
        here = camera.info.region
        with pytest.raises(LimitError, match="multiples of 4"):
            camera.set_region(type(here)(6, 8, 128, 128))
        assert camera.set_region(type(here)(8, 8, 128, 128)).top == 8
