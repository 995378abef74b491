"""The camera of the simulated bench is found out: gain, read noise, true exposures, full well."""

import numpy as np
import pytest

from app.bench import transfer
from app.bench.characterise import characterise
from app.bench.exposing import LightError, brightest
from tests.bench.rigs import bench, changed

PAPER = {"camera__shape": (192, 192), "simulation__exposure_offset_s": 14e-6}


def measured(profile, seed=0):
    with bench(profile, seed, stream=12) as session:
        return characterise(session, 1.7e9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_camera_like_the_papers_is_found_out(seed):
    result = measured(changed("paper", **PAPER), seed)
    found = result.measured
    assert found.electrons_per_adu == pytest.approx(2.6, rel=0.01)
    assert found.read_noise_e == pytest.approx(2.3, rel=0.01)
    assert found.exposure_offset_s == pytest.approx(14e-6, abs=1e-6)
    assert abs(found.exposure_offset_s - 14e-6) < 5 * found.exposure_offset_error_s
    assert abs(found.electrons_per_adu - 2.6) < 5 * found.electrons_per_adu_error
    assert found.full_well_e == pytest.approx(10500, rel=0.01)
    assert found.dark_current_e_s == pytest.approx(3.0, rel=0.05)
    assert found.offset_adu == pytest.approx(20, abs=0.05)
    assert found.linearity < 5e-3
    assert found.date.timestamp() == 1.7e9


def test_a_photon_resolving_camera_is_found_out():
    found = measured(changed("quick", camera__shape=(160, 160), simulation__exposure_offset_s=14e-6)).measured
    assert found.electrons_per_adu == pytest.approx(0.11, rel=0.015)
    assert found.read_noise_e == pytest.approx(0.3, rel=0.015)
    assert found.exposure_offset_s == pytest.approx(14e-6, abs=1e-6)


def test_exposures_in_whole_lines_still_give_the_offset_and_show_their_jitter():
    result = measured(changed("paper", **PAPER, simulation__line_time_s=10e-6))
    assert result.measured.exposure_offset_s == pytest.approx(14e-6, abs=2e-6)
    # Rounding to 10 us has a standard deviation of 10/sqrt(12) = 2.9 us.
    assert 1e-6 < result.line.jitter_s < 6e-6


def test_a_drifting_source_does_not_change_the_answer():
    # 1.5 % in the ten seconds or so that the ladder takes: exposures go up and down again.
    found = measured(changed("paper", **PAPER, simulation__flux_drift_per_h=5.0)).measured
    assert found.electrons_per_adu == pytest.approx(2.6, rel=0.01)
    assert found.exposure_offset_s == pytest.approx(14e-6, abs=2e-6)


def test_no_offset_is_found_where_there_is_none():
    found = measured(changed("paper", camera__shape=(192, 192))).measured
    assert abs(found.exposure_offset_s) < 1e-6


@pytest.mark.parametrize(("power", "word"), [(1.0, "too dark"), (1e14, "too bright")])
def test_light_that_does_not_suffice_is_refused(power, word):
    profile = changed("tiny", light__photons_per_second=power)
    with pytest.raises(LightError, match=word) as error:
        measured(profile)
    assert "\n" not in str(error.value)


def test_photon_transfer_stands_a_pattern_a_flickering_source_and_saturation():
    rng = np.random.default_rng(0)
    gain, noise_e, shape = 2.0, 3.0, (80, 80)
    pattern = rng.uniform(0.05, 1.0, shape)
    bias = np.full(shape, 50.0)

    def frame(level):
        electrons = np.minimum(rng.poisson(level * pattern * rng.normal(1, 0.05)), 7000) + rng.normal(0, noise_e, shape)
        return np.rint(electrons / gain + 50).astype(np.uint16)

    mean = np.mean([frame(3000) for _ in range(8)], axis=0)
    noise = (noise_e / gain) ** 2 + 1 / 12
    template = transfer.Template.build(mean, bias, np.ones(shape, bool), noise, gain)
    points = []
    for level in np.geomspace(20, 30000, 12):
        pairs = [transfer.pair_points(template, level, frame(level), frame(level), gain) for _ in range(6)]
        points += [transfer.pooled(list(group)) for group in zip(*pairs, strict=True)]
    fit = transfer.fit_transfer(points, noise, 4045)
    assert fit.electrons_per_adu == pytest.approx(gain, rel=0.01)
    assert not fit.used[[point.mean_adu > 3490 for point in points]].any()


def test_hot_pixels_are_not_the_brightest_place():
    frame = np.zeros((20, 21))
    frame[3, 4] = 1e5
    frame[10:14, 10:14] = 7.0
    assert brightest(frame) == 7.0
