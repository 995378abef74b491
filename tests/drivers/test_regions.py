import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import LimitError, Region
from drivers.regions import RegionGrid

IMX264 = RegionGrid((2048, 2448), smallest=(1, 4), size_step=(1, 4), offset_step=(2, 4))


def test_a_region_is_centred_as_far_as_the_steps_allow():
    assert IMX264.centred((1024, 1024)) == Region(512, 712, 1024, 1024)
    region = IMX264.centred((1022, 1004))
    assert (region.top, region.left) == (512, 720)
    IMX264.require(region, "camera")


def test_a_region_off_the_steps_is_refused_with_the_nearest_legal_one():
    with pytest.raises(LimitError) as error:
        IMX264.require(Region(511, 713, 1024, 1023), "camera")
    message = str(error.value)
    assert message.startswith("camera: 1024 x 1023 pixels from row 511, column 713 cannot be read out of 2048 x 2448")
    assert "nothing was set, the nearest that can is 1024 x 1024 pixels from row 512, column 712" in message
    assert "\n" not in message


ints = st.integers(-300, 5000)


@given(
    st.builds(Region, ints, ints, ints, ints),
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
)
def test_the_nearest_region_is_legal_and_its_own_nearest(region, size_step, offset_step):
    grid = RegionGrid((2048, 2448), smallest=(2, 16), size_step=size_step, offset_step=offset_step)
    near = grid.nearest(region)
    assert near.inside(grid.sensor_shape)
    assert grid.nearest(near) == near
    grid.require(near, "camera")
    if region.inside(grid.sensor_shape) and region.rows >= 2 and region.columns >= 16:
        assert abs(near.rows - region.rows) <= size_step[0]
        assert abs(near.left - region.left) <= offset_step[1] + size_step[1]
