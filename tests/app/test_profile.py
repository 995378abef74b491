"""Profiles: what contradicts itself is refused in one line that names file, key, values and remedy."""

import math
import tomllib

import pytest

from app.profile import PROFILES, ProfileError, load_profile, parse_profile, validated

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


def keys() -> list[tuple[str, ...]]:
    """Every key of a whole profile, those with defaults too."""
    whole = parse_profile(TINY, "mine").model_dump()
    return [
        *((section, key) for section, values in whole.items() if isinstance(values, dict) for key in values),
        *((key,) for key in whole),
    ]


TEXTS = {"serial", "serials", "object", "decoder", "name", "characterisation"}
WRONG = ["x\n" * 3, {"a": 1}, 1e300, math.nan, -1e300, [[[1]]], 10**30, "x" * 5000, [0, -1, "x"], ""]


@pytest.mark.parametrize("path", keys(), ids=".".join)
def test_every_key_refuses_what_makes_no_sense_in_one_line_with_its_name(path):
    for value in WRONG:
        if path[-1] in TEXTS and value == "":
            continue
        raw = tomllib.loads(TINY)
        section = raw if len(path) == 1 else raw.setdefault(path[0], {})
        section[path[-1]] = value
        with pytest.raises(ProfileError) as error:
            validated(raw, "mine")
        message = str(error.value)
        assert message.startswith("profile 'mine': ")
        assert path[-1] in message
        assert len(message.splitlines()) == 1
        assert len(message) < 500


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("shape = [128, 128]", "shape = [0, 128]", ("camera.shape.0", "0 pixels is outside 4 .. 32768")),
        ("shape = [128, 128]", "shape = [128, -3]", ("camera.shape.1", "-3 pixels")),
        ("shape = [128, 128]", "shape = [128]", ("camera.shape",)),
        ("shape = [128, 128]", "shape = [128.5, 128]", ("camera.shape.0",)),
        ("shape = [128, 128]", "shape = [128, 128]\norigin = [1, 1]", ("camera.origin (1, 1)", "128 x 128")),
        ("hot_pixels = 3", "hot_pixels = 100000", ("hot_pixels 100000", "(128, 128)")),
        ("black_level_adu = 200", "black_level_adu = 65535", ("black_level_adu 65535", "16 bits")),
        ("bit_depth = 16", 'bit_depth = "16"', ("camera.bit_depth", "quotes")),
        ("bit_depth = 16", "bit_depth = true", ("camera.bit_depth", "number")),
        ("distance_error_m = 0.1e-3", "distance_error_m = -20e-3", ("distance_error_m -0.02 m", "above")),
        ("edge_m = 30e-6", "edge_m = 30e-6\nsensor_shape = [64, 64]", ("(128, 128)", "sensor_shape (64, 64)")),
        ("edge_m = 30e-6", "edge_m = 30e-6\nmounting = [[1, 1], [1, 1]]", ("mounting", "invertible")),
        ("wavelength_m = 561e-9", "wavelength_m = 561", ("geometry.wavelength_m", "561 m", "unit")),
    ],
)
def test_degenerate_benches_are_refused(old, new, words):
    message = refused(old, new)
    for word in words:
        assert word in message


def test_a_profile_that_is_no_file_says_what_it_is(tmp_path):
    folder, binary = tmp_path / "folder", tmp_path / "binary.toml"
    folder.mkdir()
    binary.write_bytes(b"\xff\xfe\x00")
    for name, word in ((folder, "is a folder"), (binary, "not a text file"), (tmp_path / "no.toml", "does not exist")):
        with pytest.raises(ProfileError, match=word) as error:
            load_profile(str(name))
        assert str(name) in str(error.value)
    with pytest.raises(ProfileError, match="'nothing': does not exist among those that are shipped"):
        load_profile("nothing")
