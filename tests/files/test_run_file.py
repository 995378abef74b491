import h5py
import numpy as np
import pytest

from app.acquire.plan import Stream
from recon.dataset import DatasetError
from recon.files import schema
from recon.files.corrections import summarise_darks
from recon.files.darks import DarkAccumulator, histogram_edges
from recon.files.imports import Overrides, read_any
from recon.files.read import open_run
from recon.files.results import StoredCalibration, load_calibration, load_result, store_calibration, store_result
from recon.files.write import RunWriter
from tests.acquire.fakes import SHAPE, FakeBench, small_profile
from tests.files.foreign import cxi


@pytest.fixture
def run(tmp_path):
    """A completed run of fake devices: its path and the bench."""
    bench = FakeBench()
    bench.run(tmp_path / "run.h5")
    return tmp_path / "run.h5", bench


def frames_of(bench: FakeBench, stream: Stream, exposure: float) -> np.ndarray:
    """What the fake camera must have delivered, in order."""
    found = []
    for step in bench.plan.steps:
        if step.stream is stream and step.exposure_s == exposure:
            for repeat in range(step.repeats):
                bench.camera.seed_next(list(Stream).index(stream) + 1, step.number * 2**20 + repeat)
                found.append(bench.camera.acquire().image)
    return np.array(found)


def test_everything_that_was_measured_is_in_the_file(run):
    path, bench = run
    with open_run(path) as file:
        assert file.outcome == "completed"
        assert file.entries == 3
        assert file.plan_json == bench.plan.to_json()
        assert file.profile == bench.profile.model_dump(mode="json")
        assert file.simulated
        assert "numpy" in file.software
        np.testing.assert_array_equal(file.raw(1), frames_of(bench, Stream.CALIBRATION, 0.3))
        for entry, exposure in ((2, 3e-4), (3, 3e-2)):
            assert file.exposure_s(entry) == exposure
            np.testing.assert_array_equal(file.raw(entry), frames_of(bench, Stream.EVALUATION, exposure))
        assert file.frames_committed == 2 + 3 + 2
        truth = file.truth()
        centre = np.array(bench.profile.stage.centre_m)
        expected = 2 * (centre - np.array(bench.plan.positions_m))  # the fake truth: twice the displacement
        np.testing.assert_allclose(truth.positions_m, expected)


def test_electrons_are_dark_subtracted_counts_times_gain(run):
    path, bench = run
    with open_run(path) as file:
        data = file.ptychogram()
        raw = file.raw().astype(float)
    darks = frames_of(bench, Stream.DARK, 0.3).astype(float)
    subtract, variance, good = summarise_darks(darks.mean(0), darks.var(0, ddof=1), len(darks), 0.11)
    np.testing.assert_allclose(data.frames, (raw - subtract) * 0.11, rtol=1e-4, atol=0.5)
    np.testing.assert_allclose(data.dark_variance, variance, rtol=1e-4)
    np.testing.assert_array_equal(data.mask, good)
    assert (data.frames < 0).any()
    np.testing.assert_allclose(data.positions_m, np.array(bench.plan.positions_m)[data.indices], atol=1e-12)
    empty = frames_of(bench, Stream.EMPTY, 0.3).mean(axis=0)
    np.testing.assert_allclose(data.empty, (empty - subtract) * 0.11, rtol=1e-4, atol=0.5)
    assert data.empty_exposure_s == pytest.approx(0.3)
    assert data.geometry.distance_m == bench.profile.geometry.distance_m


def test_every_exposure_has_darks_of_its_own(run):
    path, bench = run
    with open_run(path) as file:
        for entry, exposure in ((1, 0.3), (2, 3e-4), (3, 3e-2)):
            darks = frames_of(bench, Stream.DARK, exposure)
            with h5py.File(path) as raw:
                dark = raw[schema.entry_name(entry)][schema.DARK]
                assert dark[schema.EXPOSURE][()] == exposure
                np.testing.assert_allclose(dark[schema.DARK_MEAN], darks.mean(0), rtol=1e-5)
                np.testing.assert_allclose(dark[schema.DARK_SAMPLE_VARIANCE], darks.var(0, ddof=1), rtol=1e-5)
                np.testing.assert_array_equal(dark[schema.DARK_RAW], darks[: bench.profile.scan.keep_darks])
            assert file.dark(entry).count == 3


def test_clipped_pixels_are_marked_in_their_frame_only(tmp_path):
    bench = FakeBench()
    acquire = bench.camera.acquire

    def clip(cancel):
        exposure = acquire(cancel)
        if bench.camera.code[0] == 3 and not clip.done:
            exposure.image[2, 3] = 65535
            clip.done = True
        return exposure

    clip.done = False
    bench.camera.acquire = clip
    bench.run(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as file:
        saturated = file.ptychogram().saturated
        assert file.ptychogram(2).saturated is None
    assert saturated.sum() == 1
    assert saturated[0, 2, 3]


def test_ptylab_finds_what_it_wants(run):
    path, bench = run
    with h5py.File(path) as file:
        for name in (schema.PTYLAB_FRAMES, schema.PTYLAB_ENCODER, "wavelength", "dxd", "zo", "entrancePupilDiameter"):
            assert isinstance(file[name], h5py.Dataset)
        # Hard links: the same object, not a copy.
        assert file["ptychogram"] == file["entry_1/instrument_1/detector_1/data"]
        assert file["ptychogram"].shape == (3, *SHAPE)
        translation = file["entry_1/sample_1/geometry_1/translation"][...]
        np.testing.assert_array_equal(file["encoder"][...], translation[:, 1::-1])
        for group in file.values():
            if isinstance(group, h5py.Group):
                assert h5py.check_string_dtype(group["name"].dtype).length is not None
        assert file["cxi_version"][()] == 160
        assert file["wavelength"][()] == bench.profile.geometry.wavelength_m
        assert file["orientation"][()] == 0
        np.testing.assert_array_equal(file["entry_1/data_1/data"], file["ptychogram"])
        energy = file["entry_1/instrument_1/beam_1/energy"][()]
        assert energy == pytest.approx(3.5409e-19, rel=1e-4)
        assert file["entry_1/instrument_1/detector_1/frames_committed"][()] == 3


def test_frames_out_of_order_or_of_another_kind_are_refused(tmp_path):
    bench = FakeBench()
    taken = []
    with bench.create(tmp_path / "run.h5") as writer:
        bench.camera.set_exposure(3e-4)
        from app.acquire.frame import Frame

        step = bench.plan.steps[4]
        with pytest.raises(DatasetError, match="out of order"):
            writer.append(Frame(step, 0, bench.camera.acquire(), None, None).record())
        record = Frame(bench.plan.steps[0], 0, bench.camera.acquire(), None, None).record()
        for wrong in (
            {"image": np.zeros((2, 2), np.uint16)},
            {"asked_exposure_s": 1.0},
            {"stream": "calibration", "asked_exposure_s": 1.0},
        ):
            with pytest.raises(DatasetError, match=r"shape|no place|no entry"):
                writer.append(type(record)(**(vars(record) | wrong)))
        taken.append(writer.frames_committed)
    assert taken == [0]
    with pytest.raises(DatasetError, match="no committed frame"), open_run(tmp_path / "run.h5") as file:
        file.ptychogram()


def test_only_one_process_opens_a_running_file(tmp_path):
    bench = FakeBench()
    with bench.create(tmp_path / "run.h5"), pytest.raises(DatasetError):
        RunWriter.resume(tmp_path / "absent.h5", bench.clock)
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("keep", [0, 5, 96, 200, 2000, -1])
def test_a_truncated_file_is_refused_in_one_line(run, tmp_path, keep):
    path, bench = run
    broken = tmp_path / "broken.h5"
    broken.write_bytes(path.read_bytes()[:keep])
    if keep == -1:
        return
    for action in (open_run, read_any, lambda p: RunWriter.resume(p, bench.clock)):
        with pytest.raises(DatasetError) as error:
            action(broken)
        assert "broken.h5" in str(error.value)
        assert "\n" not in str(error.value)


def test_foreign_hdf5_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["something"] = np.arange(4)
    before = path.read_bytes()
    bench = FakeBench()
    for action in (
        open_run,
        read_any,
        lambda p: RunWriter.resume(p, bench.clock),
        lambda p: store_result(p, 1, {}, {}),
    ):
        with pytest.raises(DatasetError, match=r"foreign\.h5"):
            action(path)
    assert path.read_bytes() == before


def test_missing_entries_and_darks_are_named(run, tmp_path):
    path, _ = run
    with open_run(path) as file, pytest.raises(DatasetError, match=r"no entry 9; it has 1 \.\. 3"):
        file.ptychogram(9)
    with h5py.File(path, "r+") as file:
        file["entry_1/dark_1/count"][()] = 0
        del file["entry_2/instrument_1/detector_1/count_time"]
    with open_run(path) as file, pytest.raises(DatasetError, match=r"darks of 0\.3 s"):
        file.ptychogram()


def test_a_calibration_round_trip_replaces_the_earlier_one(run):
    path, _ = run
    rng = np.random.default_rng(1)
    assert load_calibration(path) is None
    with h5py.File(path) as file:
        before = file["ptychogram"][...]
    for size in (4, 6):
        stored = StoredCalibration(
            probe=(rng.normal(size=(size, size)) + 1j).astype(np.complex64),
            probe_pixel_m=1e-6,
            object=rng.normal(size=(9, 9)).astype(np.complex64),
            object_pixel_m=2e-6,
            distance_m=0.0201,
            positions_m=rng.normal(size=(3, 2)),
            loss=np.arange(5.0),
            settings={"epochs": size},
            software={"torch": "2"},
        )
        store_calibration(path, stored)
        loaded = load_calibration(path)
        for name, value in vars(stored).items():
            np.testing.assert_array_equal(getattr(loaded, name), value)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["entry_1/instrument_1/source_1/illumination"], stored.probe)
        np.testing.assert_array_equal(file["ptychogram"], before)


def test_results_per_entry_round_trip_and_spare_the_data(run):
    path, _ = run
    assert load_result(path, 2) is None
    store_result(path, 2, {"mean": np.eye(3), "latents": np.arange(4.0)}, {"starts": 16})
    arrays, settings = load_result(path, 2)
    np.testing.assert_array_equal(arrays["mean"], np.eye(3))
    assert set(arrays) == {"mean", "latents"}
    assert settings == {"starts": 16}
    with pytest.raises(DatasetError, match="measured data"):
        store_result(path, 2, {}, {}, name="instrument_1")
    with pytest.raises(DatasetError, match="no entry 7"):
        store_result(path, 7, {}, {})


def test_darks_accumulate_to_mean_variance_and_histogram():
    rng = np.random.default_rng(0)
    frames = rng.poisson(100, (50, 6, 8)).astype(np.uint16)
    accumulator = DarkAccumulator((6, 8), keep=2)
    for frame in frames:
        accumulator.add(frame)
    dark = accumulator.summary()
    np.testing.assert_allclose(dark.mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dark.variance, frames.var(0, ddof=1), rtol=1e-5)
    assert dark.histogram.sum() == frames.size
    centres = (histogram_edges()[1:] + histogram_edges()[:-1]) / 2
    assert (dark.histogram * centres**2).sum() / frames.size == pytest.approx(frames.var(0).mean(), rel=0.02)
    np.testing.assert_array_equal(dark.raw, frames[:2])
    with pytest.raises(ValueError, match="two dark frames"):
        DarkAccumulator((6, 8), 1).summary()


def test_uniform_darks_shrink_to_the_pool_and_bad_pixels_stand_out():
    rng = np.random.default_rng(0)
    frames = np.rint(rng.normal(200, 3, (30, 64, 64)))
    frames[:, 5, 6] += 400  # hot
    frames[::3, 9, 9] += 60  # telegraph noise
    frames[:, 1, 2] = 200  # dead
    mean, variance = frames.mean(0), frames.var(0, ddof=1)
    subtract, electrons2, good = summarise_darks(mean, variance, 30, 0.5)
    assert sorted(zip(*np.nonzero(~good), strict=True)) == [(1, 2), (5, 6), (9, 9)]
    assert electrons2[good] == pytest.approx(9 * 0.25, rel=0.1)
    assert electrons2[good].std() < 0.2 * variance[good].std() * 0.25
    assert subtract[good] == pytest.approx(200, abs=0.3)
    # A real pattern, far beyond the scatter of the means, is kept.
    pattern = rng.normal(0, 20, (64, 64))
    kept, _, _ = summarise_darks(mean + pattern, variance, 30, 0.5)
    assert np.std((kept - mean - pattern)[good]) < 0.1


def test_cxi_is_imported_and_left_alone(tmp_path):
    path = cxi(tmp_path / "other.cxi")
    before = path.read_bytes()
    data = read_any(path, Overrides(electrons_per_count=2.0, read_noise_e=0.5))
    assert path.read_bytes() == before
    np.testing.assert_array_equal(data.frames, 2.0 * np.arange(60).reshape(3, 4, 5))
    np.testing.assert_array_equal(data.positions_m, [[1, 0], [4, 3], [7, 6]])
    np.testing.assert_array_equal(data.mask, ~np.eye(4, 5, dtype=bool))
    assert data.dark_variance == pytest.approx(0.25)
    assert data.geometry.wavelength_m == pytest.approx(6.62607015e-34 * 299792458 / 2e-15)
    scaled = read_any(path, Overrides(focus_to_sample_m=0.5)).geometry
    assert (scaled.pixel_size_m, scaled.distance_m) == pytest.approx((5e-5 / 4, 1.5 / 4))


def test_inconsistent_imports_are_refused(tmp_path):
    for changes, match in (
        ({"y_pixel_size": 6e-5}, "not square"),
        ({"translation": np.zeros((2, 3))}, "do not belong"),
        ({"data": np.full((3, 4, 5), np.nan)}, "not finite"),
        ({"data": np.zeros((4, 5))}, "expected real"),
    ):
        with pytest.raises(DatasetError, match=match):
            read_any(cxi(tmp_path / "bad.cxi", **changes))


def test_ptylab_files_and_our_own_read_the_same(run, tmp_path):
    path, _ = run
    copy = tmp_path / "ptylab.hdf5"
    with h5py.File(path) as own, h5py.File(copy, "w") as other:
        for name in ("ptychogram", "encoder", "wavelength", "zo", "dxd"):
            other[name] = own[name][...]
    own, other = read_any(path), read_any(copy)
    np.testing.assert_array_equal(own.positions_m, other.positions_m)
    assert own.geometry == other.geometry
    with open_run(path) as file:
        np.testing.assert_array_equal(other.frames, file.raw())
    assert read_any(path, Overrides(entry=3)).exposures_s == pytest.approx(3e-2)


def test_npz_needs_what_it_does_not_say(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, data=np.ones((1, 2, 4, 4), np.float32), scan=np.array([[[0.0, 1.0], [2.0, 3.0]]]))
    with pytest.raises(DatasetError, match="wavelength_m; give it"):
        read_any(path)
    data = read_any(path, Overrides(wavelength_m=1e-10, distance_m=1.0, pixel_size_m=2e-6))
    np.testing.assert_allclose(data.positions_m, [[0, 2e-6], [4e-6, 6e-6]])
    np.savez(path, other=np.ones(3))
    with pytest.raises(DatasetError, match="no frames"):
        read_any(path)
    path.write_bytes(b"PK nonsense")
    with pytest.raises(DatasetError, match="not a readable npz"):
        read_any(path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_any(tmp_path / "none.npz")


def test_public_data_are_read(shared_data):
    folder = shared_data / "ptychography"
    near = read_any(folder / "PETRAIII_P25_Near_Field_Ptycho.cxi", Overrides(focus_to_sample_m=3.65e-3))
    assert near.frames.shape == (200, 100, 100)
    assert near.geometry.pixel_size_m == pytest.approx(178.66e-9, rel=1e-4)
    assert near.geometry.distance_m == pytest.approx(3.63814e-3, rel=1e-4)
    given = Overrides(wavelength_m=1.4e-10, distance_m=1.0, pixel_size_m=1e-6)
    assert len(read_any(folder / "aps-235-truncated.npz", given)) == 20
    assert read_any(folder / "siemens-star-small.npz.bz2", given).frames.shape == (516, 128, 128)


def test_keeping_no_raw_darks_and_no_empty_beam(tmp_path):
    bench = FakeBench(small_profile(keep_darks=0, empty_frames=0))
    bench.run(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as file:
        data = file.ptychogram()
    assert data.empty is None
    assert data.empty_exposure_s is None
