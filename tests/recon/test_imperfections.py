"""Nuisances by number: what each frame depends on, and what they mean in metres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.errorbars import Uncertainty
from recon.imperfections import FrameNuisances, Imperfections, affine_moves

PLACES = 1e-4 * np.array([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0], [1.0, -1.0]])
STOPS = np.array([0, 1, 0, 1])


def _known(position: np.ndarray, affine: np.ndarray, distance: float = 2e-5) -> Uncertainty:
    return Uncertainty(
        distance, affine, position, np.zeros((0, 4, 4), np.complex64), np.zeros(0), 1e-6, 0.0, 0.0, 1.0, 0.0, 1, 0
    )


def test_frames_of_one_stop_share_place_and_light() -> None:
    given = Imperfections.of(4, position_m=1e-5, flux=0.2, distance_m=1e-3, stops=STOPS)
    found = FrameNuisances.numbered(given, PLACES, 0.08)
    assert found.kinds == ("y", "x", "flux", "distance")
    assert len(found) == 7
    assert found.index[0].tolist() == found.index[2].tolist()
    assert found.index[1].tolist() == [1, 3, 5, 6]
    values = np.array([1.0, 0, 0, -2, 0.5, 0, 3])
    assert np.allclose(found.places(values) - PLACES, 1e-5 * np.array([[1, 0], [0, -2], [1, 0], [0, -2]]))
    assert found.distance(values) == pytest.approx(0.083)
    assert np.allclose(found.roots(values), [1.05, 1, 1.05, 1])


def test_exact_quantities_have_no_number() -> None:
    given = Imperfections.of(4, flux=0.1)
    found = FrameNuisances.numbered(given, PLACES, 0.08)
    assert found.kinds == ("flux",)
    assert np.array_equal(found.places(np.ones(4)), PLACES)
    assert found.distance(np.ones(4)) == 0.08
    assert Imperfections.of(4).none
    assert not given.none


def test_a_calibrations_map_is_one_for_all_frames() -> None:
    places = 1e-4 * np.array([[0.0, 0.0], [1.0, -1.0], [-1.0, 0.5], [0.3, 2.0]])
    affine = np.array([0.01, 0.0, 0.02])
    own = 0.5e-6
    total = np.sqrt(own**2 + np.square(affine_moves(places) * affine).sum(2))
    given = Imperfections.of(4).calibrated(_known(total, affine), places, np.arange(4))
    assert np.allclose(given.position_m, own, rtol=1e-6)
    assert given.distance_m == 2e-5
    found = FrameNuisances.numbered(given, places, 0.08)
    assert found.kinds == ("y", "x", "distance", "rotation", "anisotropy")
    # A turn by a deviation moves each place across its distance from the middle, and no distances between them.
    values = np.zeros(len(found))
    values[found.names.index("rotation")] = 1
    moved = found.places(values) - places
    assert np.allclose(np.abs((moved * (places - places.mean(0))).sum(1)), 0, atol=1e-20)
    assert np.allclose(np.hypot(*moved.T), 0.01 * np.hypot(*(places - places.mean(0)).T))


def test_a_distance_that_was_not_refined_is_taken_as_exact() -> None:
    given = Imperfections.of(4, position_m=1e-5).reused(_known(np.zeros((4, 2)), np.zeros(3), float("nan")))
    assert given.distance_m == 0.0
    assert np.array_equal(given.position_m, np.full((4, 2), 1e-5))


def test_summary_is_in_metres() -> None:
    given = Imperfections.of(2, position_m=1e-5, distance_m=1e-3)
    found = FrameNuisances.numbered(given, PLACES[:2], 0.08)
    said = found.summary(np.array([1.0, -1, 0, 0, 2]), np.full(5, 0.5))
    assert said["position_moved_m"] == pytest.approx(1e-5 / np.sqrt(2))
    assert said["position_left_m"] == pytest.approx(5e-6)
    assert said["distance_moved_m"] == pytest.approx(2e-3)
    assert "flux_sigma" not in said


def test_deviations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="negative or not finite"):
        Imperfections.of(3, position_m=-1e-6)
    with pytest.raises(ValueError, match=r"they are \(2, 2\)"):
        replace(Imperfections.of(3), stops=np.arange(2))
    with pytest.raises(ValueError, match="one stop"):
        replace(Imperfections.of(2, stops=np.zeros(2, np.int64)), position_m=np.array([[1e-6, 0], [2e-6, 0]]))
