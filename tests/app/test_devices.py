import gzip

import numpy as np
import pytest
from PIL import Image

from app.acquire.scan import Scan
from app.devices import open_devices
from app.errors import known_message
from app.profile import ProfileError, load_profile
from app.samples import make_sample
from drivers.base import NotReadyError
from recon.decoders.pairs import RELIEF_RAD, paired, transmission
from recon.files.read import open_run
from simulators.objects import SampleError

TINY = load_profile("tiny")


def idx_file(path, images):
    header = bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4, "big") for n in images.shape)
    path.write_bytes(gzip.compress(header + images.tobytes()))
    return path


def test_samples_of_every_kind(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 12), np.uint8)
    idx = idx_file(tmp_path / "images.gz", images)
    Image.fromarray(images[2]).save(tmp_path / "picture.png")
    of_idx, of_picture = make_sample(f"idx:{idx}:2", TINY), make_sample(str(tmp_path / "picture.png"), TINY)
    np.testing.assert_array_equal(of_idx.image, of_picture.image)
    one, other = make_sample("digit:4", TINY), make_sample("digit:4:1", TINY)
    assert one.image.shape != other.image.shape or (one.image != other.image).any()
    np.testing.assert_array_equal(one.image, make_sample("digit:4:0", TINY).image)


def test_a_relief_gives_any_amplitude_its_phase(tmp_path):
    flat, raised = make_sample("digit:4:2", TINY), make_sample("relief:digit:4:2", TINY)
    assert raised.image.dtype == np.complex64
    np.testing.assert_allclose(np.abs(raised.image), flat.image, atol=1e-6)
    assert (raised.pitch_m, raised.middle) == (flat.pitch_m, flat.middle)
    phase = np.where(flat.image > 0.5, np.angle(raised.image), np.nan)
    assert np.nanmin(phase) < 0.1
    assert np.nanmax(phase) > 1.9
    # As in the pairs that decoders learn from: over the decoder's square, of which the digit takes 20 of 32 pixels.
    side = round(TINY.sample.height_m * 32 / 20 / flat.pitch_m)
    whole = np.zeros((side, side), np.float32)
    rows, columns = (slice(side // 2 - n // 2, side // 2 - n // 2 + n) for n in flat.image.shape)
    whole[rows, columns] = flat.image
    expected = transmission(paired(whole[None]), RELIEF_RAD)[0][rows, columns]
    assert np.abs(raised.image - expected).max() < 0.02


def test_a_users_own_complex_object(tmp_path):
    image = (np.random.default_rng(1).uniform(0, 1, (12, 12)) * np.exp(1j)).astype(np.complex64)
    path = tmp_path / "object.npy"
    np.save(path, image)
    sample = make_sample(str(path), TINY)
    np.testing.assert_array_equal(sample.image[1:-1, 1:-1], image)
    assert 12 * sample.pitch_m == pytest.approx(TINY.sample.height_m)
    with pytest.raises(SampleError, match="has a phase of its own; leave relief: out"):
        make_sample(f"relief:{path}", TINY)
    np.save(path, np.abs(image))
    assert np.iscomplexobj(make_sample(f"relief:{path}", TINY).image)


@pytest.mark.parametrize(
    "spec", ["digit:", "digit:4:-1", "mnist:x", "idx:none.gz:0", "nothing.png", "relief:", "a.npy", ""]
)
def test_bad_samples_are_known_errors(spec):
    with pytest.raises(Exception) as error:  # noqa: PT011
        make_sample(spec, TINY)
    assert known_message(error.value) is not None


def test_mnist_digits_have_the_height_of_the_profile(shared_data):
    sample = make_sample("mnist:17", TINY)
    rows = np.flatnonzero(sample.image.max(axis=1) > 0)
    assert len(rows) * sample.pitch_m == pytest.approx(TINY.sample.height_m, rel=0.06)


def test_devices_are_closed_until_entered_and_after_leaving():
    devices = open_devices(TINY)
    with pytest.raises(NotReadyError):
        _ = devices.camera.info
    with devices:
        assert devices.camera.info.shape == TINY.camera.shape
        assert not devices.stage.homed
    with pytest.raises(NotReadyError):
        _ = devices.camera.info


@pytest.mark.parametrize("name", ["tiny", "emulated"])
def test_the_profile_bounds_the_exposures(name):
    if name == "emulated":
        pytest.importorskip("pty", reason="emulated controllers need a POSIX system")
    loaded = load_profile(name)
    camera = loaded.camera.model_copy(update={"min_exposure_s": 3e-4, "max_exposure_s": 0.3})
    opened = open_devices(loaded.model_copy(update={"camera": camera})).camera
    opened.open()
    try:
        assert (opened.info.exposure_s.low, opened.info.exposure_s.high) == (3e-4, 0.3)
    finally:
        opened.close()


def test_an_emulated_camera_has_its_own_serial_number():
    pytest.importorskip("pty", reason="emulated controllers need a POSIX system")
    emulated = load_profile("emulated")
    camera = emulated.camera.model_copy(update={"serial": "24012345"})
    with pytest.raises(ProfileError, match=r"camera.serial: '24012345' is not the emulated camera's"):
        open_devices(emulated.model_copy(update={"camera": camera}))


def test_a_simulated_run_counts_the_photons_of_its_beam(tmp_path):
    scan = Scan.new(TINY, tmp_path / "run.h5", seed=5)
    with scan.devices:
        scan.runner().run()
    with open_run(scan.path) as run:
        data, truth = run.ptychogram(), run.truth()
        series = run.ptychogram(2)
    photons = TINY.light.photons_per_second * TINY.scan.empty_exposure_s
    assert data.empty[data.mask].sum() == pytest.approx(photons, rel=0.01)
    assert (np.abs(truth.probe) ** 2).sum() == pytest.approx(photons, rel=1e-4)
    assert truth.distance_m == pytest.approx(TINY.geometry.distance_m + TINY.simulation.distance_error_m)
    error = data.positions_m - truth.positions_m[data.indices]
    assert 0 < np.abs(error).max() < 20e-6
    assert np.sqrt(data.dark_variance[data.mask].mean()) == pytest.approx(TINY.camera.read_noise_e, rel=0.1)
    # The series was taken where the bright frames were.
    np.testing.assert_array_equal(series.positions_m, data.positions_m[np.isin(data.indices, series.indices)])
    ratio = series.frames.sum((1, 2)) / data.frames[np.isin(data.indices, series.indices)].sum((1, 2))
    assert ratio == pytest.approx(3e-4 / 0.3, rel=0.5)
