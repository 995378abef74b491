"""Alignment: whatever the mounting, the map, the beam's centre and the region are found; and it is refused in time."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from app.bench import align as module
from app.bench.align import AlignError, align, fit_map, nearest_quarter_turn, region_about, require_contrast
from app.bench.beam import FreeSpace, Grid, find_light, fit_beam, pinhole_wave
from app.bench.characterisation import Characterisation
from app.bench.registration import places_from_shifts, shift_between, transmission
from app.profile import load_profile
from drivers.base import LimitError, NotReadyError, StagePosition
from tests.bench.rigs import bench, changed

CENTRE = StagePosition(12.5e-3, 12.5e-3)
MOUNTINGS = [(quarter, mirror) for quarter in range(4) for mirror in (1.0, -1.0)]


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def aligned(profile, seed=0, start=CENTRE, sample=None):
    with bench(profile, seed, stream=13, sample=sample) as session:
        session.home_if_needed()
        found = align(session, start, 1.7e9)
        assert session.devices.stage.position().distance_to(start) < 1e-6
    return found


@pytest.mark.parametrize(("quarter", "mirror"), MOUNTINGS)
def test_every_mounting_is_recovered(monkeypatch, quarter, mirror):
    monkeypatch.setattr(module, "STEPS", 4)
    monkeypatch.setattr(module, "SECOND_LOOKS", 1)
    number = MOUNTINGS.index((quarter, mirror))
    rng = np.random.default_rng(number)
    # Up to 5 degrees and 3 per cent beyond the quarter turn.
    angle, scale = np.radians(rng.uniform(-5, 5)), 1 + rng.uniform(-0.03, 0.03)
    base = np.rint(turn(quarter * np.pi / 2)) @ np.diag([1.0, mirror])
    mounting = scale * base @ turn(angle)
    profile = changed(
        "quick",
        camera__shape=(256, 256),
        stage__repeatability_m=1e-6,
        stage__rotation_rad=0.0,
        stage__scale_error=(0.0, 0.0),
        stage__shear=0.0,
        simulation__distance_error_m=0.0,
        simulation__mounting=tuple(tuple(row) for row in mounting.tolist()),
        simulation__sensor_shape=(288, 320),
        simulation__beam_offset_px=(9.0, -21.0),
        simulation__region_step=4,
    )
    found = aligned(profile, seed=number)
    np.testing.assert_array_equal(nearest_quarter_turn(found.found.matrix), base)
    assert found.measured.mirrored == (mirror < 0)
    assert found.found.rotation_deg == pytest.approx(np.degrees(angle), abs=0.3)
    assert found.found.scale == pytest.approx(scale, rel=0.01)
    assert found.beam_px == pytest.approx((144 + 9, 160 - 21), abs=1.0)
    assert found.measured.origin == (24, 12)  # nearest multiples of 4 to 153 - 128 and 139 - 128


def test_the_shipped_bench_is_aligned_within_its_own_errors():
    """With everything that the simulated bench does wrong, a distance wrong by 0.7 % included: the scale follows it."""
    profile = load_profile("quick")
    found = aligned(profile)
    true = (
        np.array(profile.stage.stage_to_object)
        @ np.array([[np.cos(6e-3), -np.sin(6e-3)], [np.sin(6e-3), np.cos(6e-3)]])
        @ np.array([[1.002, 0.0], [3e-3, 0.998]])
    )
    rotation = np.degrees(np.arctan2(true[1, 0] - true[0, 1], true[0, 0] + true[1, 1]) - np.pi)
    rotation = (rotation + 180) % 360 - 180
    error = found.found.rotation_deg - rotation
    assert abs(error) < min(0.5, 4 * found.found.rotation_error_deg)
    by_distance = profile.geometry.distance_m / (profile.geometry.distance_m + profile.simulation.distance_error_m)
    assert found.found.scale == pytest.approx(by_distance, rel=0.01)
    # The scale agrees with 1 as far as a distance by ruler can tell, so the stage's own scale is proposed.
    assert abs(np.linalg.det(np.array(found.measured.stage_to_object))) == pytest.approx(1.0)
    assert found.measured.scale_error > 0.01
    assert found.beam.defocus_waves == pytest.approx(0.10, abs=0.02)
    assert found.beam.astigmatism_waves[0] == pytest.approx(0.06, abs=0.01)


def test_a_start_beside_the_centre_leaves_scans_where_they_were(monkeypatch):
    """`--start` names a place with an edge of the sample in the beam; the sample's middle is not measured there."""
    monkeypatch.setattr(module, "STEPS", 3)
    monkeypatch.setattr(module, "SECOND_LOOKS", 0)
    profile, known = load_profile("tiny"), changed("tiny", stage__centre_m=(12.45e-3, 12.6e-3))
    start = StagePosition(12.6e-3, 12.4e-3)
    with bench(profile, stream=13) as session:
        session.home_if_needed()
        found = align(replace(session, known=known), start, 1.7e9)
    assert found.measured.centre_m == (12.45e-3, 12.6e-3)
    content = Characterisation(format=1, profile="tiny", simulated=True, alignment=found.measured)
    assert content.applied_to(known).stage.centre_m == known.stage.centre_m


OPAQUE = "nothing here lets light through"


def test_samples_that_show_nothing_are_refused_after_tiny_moves():
    """Nothing in the beam, and nothing but opaque ground."""
    profile = load_profile("tiny")
    nothing, opaque = StagePosition(12.5e-3, 18e-3), StagePosition(10e-3, 12.5e-3)
    for start, word in ((nothing, "no edge of the sample"), (opaque, OPAQUE)):
        with bench(profile, stream=13) as session:
            session.home_if_needed()
            moves = []
            move_to = session.devices.stage.move_to

            def watched(target, cancel, moves=moves, move_to=move_to):
                moves.append(target)
                return move_to(target, cancel)

            session.devices.stage.move_to = watched
            with pytest.raises(AlignError, match=word) as error:
                align(session, start, 0.0)
            assert "\n" not in str(error.value)
            # No further than the tiny moves and their approaches.
            reach = profile.stage.approach_m + module.TINY_M
            assert all(target.distance_to(start) < 1.5 * reach for target in moves)


def test_nothing_moves_when_a_place_is_out_of_reach_or_the_stage_is_not_homed():
    with bench(load_profile("tiny"), stream=13) as session:
        session.home_if_needed()
        before = session.devices.stage.position()
        with pytest.raises(LimitError):
            align(session, StagePosition(0.6e-3, 12.5e-3), 0.0)
        assert session.devices.stage.position() == before
    with bench(load_profile("tiny"), stream=13) as session, pytest.raises(NotReadyError, match="not homed"):
        align(session, CENTRE, 0.0)


def test_the_region_is_put_back_also_after_an_error():
    profile = changed("tiny", simulation__sensor_shape=(160, 160))
    with bench(profile, stream=13) as session:
        session.home_if_needed()
        before = session.devices.camera.info.region
        with pytest.raises(AlignError):
            align(session, StagePosition(12.5e-3, 18e-3), 0.0)
        assert session.devices.camera.info.region == before


def test_flicker_is_not_contrast():
    rng = np.random.default_rng(0)
    picture = ndimage.gaussian_filter(rng.normal(size=(64, 64)), 4) ** 2
    with pytest.raises(AlignError, match="no edge"):
        require_contrast([picture, 1.2 * picture, 0.8 * picture])
    require_contrast([picture, np.roll(picture, 4, axis=0), picture])


GRID = Grid.choose(6.9e-6, 500e-6)
SPACE = FreeSpace(GRID, 561e-9, 65e-3)


def test_the_beams_wave_is_found_from_its_picture():
    rng = np.random.default_rng(1)
    numbers = np.array([0.97, 0.03, 0.12, -0.05, 0.03, 0.02, -0.03, 0.02, -0.01])
    picture = np.abs(SPACE.to_camera(pinhole_wave(GRID, 500e-6, numbers))) ** 2
    counts = rng.poisson(picture / picture.max() * 3000).astype(float)
    counts[:40] = np.nan  # unknown
    beam = fit_beam(counts, GRID, SPACE, 500e-6)
    assert beam.diameter_m == pytest.approx(0.97 * 500e-6, rel=5e-3)
    assert beam.defocus_waves == pytest.approx(0.12, abs=0.01)
    assert beam.astigmatism_waves == pytest.approx((-0.05, 0.03), abs=0.005)
    assert beam.misfit < 0.01


def test_light_is_found_anywhere_and_hot_pixels_are_none():
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (300, 400))
    image[5, 7] = 1e5
    assert find_light(image, 100) is None
    y, x = np.mgrid[:300, :400]
    image += 50 * np.exp(-((y - 210.3) ** 2 + (x - 92.6) ** 2) / (2 * 20**2))
    found, _ = find_light(image, 100)
    assert found == pytest.approx((210.3, 92.6), abs=1.0)


def test_shifts_are_found_without_knowing_their_direction_in_spite_of_the_beams_edge():
    rng = np.random.default_rng(3)
    thing = ndimage.gaussian_filter(rng.normal(size=(160, 160)), 4)
    y, x = np.mgrid[:96, :96] - 47.5
    mask = np.hypot(y, x) < 34
    disc = np.hypot(y, x) < 40
    for shift in ((5.3, -2.6), (-7.1, 0.4), (0.2, 6.0)):
        first = thing[32:128, 32:128] * disc
        second = ndimage.shift(thing, shift, order=5)[32:128, 32:128] * disc
        found = shift_between(first, second, mask, 20.0)
        assert found.pixels == pytest.approx(shift, abs=0.05)
        assert found.likeness > 0.95


def test_an_edge_says_nothing_about_its_own_direction():
    edge = np.zeros((64, 64))
    edge[:, 30:] = 1.0
    edge = ndimage.gaussian_filter(edge + 0.002 * np.random.default_rng(0).normal(size=edge.shape), 1)
    mask = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 26
    found = shift_between(edge, np.roll(edge, 3, axis=1), mask, 8.0)
    assert found is not None
    assert found.information[1, 1] > 100 * found.information[0, 0]


def test_wrong_shifts_are_left_out():
    places = np.array([[3.0 * k, 1.0 * k] for k in range(9)])
    pairs = [(i, j) for i in range(9) for j in range(i + 1, min(i + 4, 9))]
    shift = type("S", (), {})
    shifts = []
    for i, j in pairs:
        one = shift()
        one.pixels, one.information = places[j] - places[i], np.eye(2)
        shifts.append(one)
    shifts[3].pixels = shifts[3].pixels + np.array([9.0, -7.0])
    found, used = places_from_shifts(9, pairs, shifts)
    assert not used[3]
    assert used.sum() == len(pairs) - 1
    np.testing.assert_allclose(found - found[0], places, atol=1e-6)


def test_a_transmission_is_seen_through_diffraction():
    wave = pinhole_wave(GRID, 500e-6, np.array([1.0, 0.04, 0.1, 0, 0, 0, 0, 0, 0]))
    true = np.zeros((GRID.size, GRID.size))
    middle = GRID.size // 2
    true[:, middle - 12 : middle + 4] = 1.0
    true[middle + 10 : middle + 22, : middle + 30] = 1.0
    true = ndimage.gaussian_filter(true, 1)
    picture = np.abs(SPACE.to_camera((wave * true).astype(np.complex64))) ** 2
    found, misfit = transmission(picture.astype(float), wave, SPACE)
    inside = np.abs(wave) > 0.6
    assert misfit < 0.02
    assert np.corrcoef(found[inside], true[inside])[0, 1] > 0.97


def test_maps_and_their_errors():
    rng = np.random.default_rng(4)
    stage = rng.uniform(-3e-4, 3e-4, (30, 2))
    true = 1.02 * np.array([[0.0, 1.0], [1.0, 0.0]]) @ turn(0.03)
    found = fit_map(stage, stage @ true.T + rng.normal(0, 1e-6, (30, 2)))
    assert found.mirrored
    assert found.rotation_deg == pytest.approx(np.degrees(0.03), abs=4 * found.rotation_error_deg)
    assert found.scale == pytest.approx(1.02, abs=4 * found.scale_error)
    assert found.rotation_error_deg < 0.1
    with pytest.raises(AlignError, match="uncertain"):
        fit_map(stage, stage @ true.T + rng.normal(0, 2e-4, (30, 2)))


def test_regions_stay_on_the_sensor():
    assert region_about((100.2, 50.0), (64, 64), (200, 200)).top == 68
    assert region_about((10, 195), (64, 64), (200, 200)).left == 136
    assert region_about((10, 195), (64, 64), (200, 200)).top == 0
