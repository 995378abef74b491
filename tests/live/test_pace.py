"""A clock at another speed."""

import math

import pytest

from app.live.pace import PacedClock


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_a_clock_that_would_never_tell_two_times_apart_is_refused(speed):
    with pytest.raises(ValueError, match="is not a finite number above 0"):
        PacedClock(speed)
