"""Profiles: what contradicts itself is refused in one line that names file, key, values and remedy."""

import pytest

from app.profile import PROFILES, ProfileError, parse_profile

TINY = (PROFILES / "tiny.toml").read_text()


def refused(old: str, new: str) -> str:
    """The error of `tiny` with a line replaced."""
    assert old in TINY
    with pytest.raises(ProfileError) as error:
        parse_profile(TINY.replace(old, new), "mine")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_longest_exposure_below_the_shortest_is_refused():
    message = refused("max_exposure_s = 10", "max_exposure_s = 1e-7")
    assert "profile 'mine': camera: " in message
    assert "min_exposure_s 1e-06 s is above max_exposure_s 1e-07 s; exchange them" in message
