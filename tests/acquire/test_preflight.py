import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.acquire.planning import make_plan
from app.acquire.preflight import (
    DISK_RESERVE,
    PreflightError,
    Severity,
    legal_ladder,
    peak_over_mean,
    preflight,
    require,
)
from app.profile import Profile, load_profile
from drivers.base import ConnectionLost, Interval, LightState
from drivers.manual import ManualLight, nobody
from tests.acquire.fakes import FakeBench, small_profile


def findings(bench: FakeBench, output: Path | None = None, needed: int = 0, **options):
    return preflight(bench.plan, bench.profile, bench.devices, output, needed, **options)


def changed(section: str, **values) -> FakeBench:
    raw = small_profile().model_dump()
    raw[section] |= values
    return FakeBench(Profile.model_validate(raw))


def assert_refused(found, *words: str) -> None:
    with pytest.raises(PreflightError) as error:
        require(found)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_good_plan_has_no_findings_and_touches_nothing(tmp_path):
    bench = FakeBench()
    found = findings(bench, tmp_path / "run.h5")
    assert found == []
    require(found)
    assert bench.log == []
    assert list(tmp_path.iterdir()) == []


def test_a_scan_beyond_the_travel_is_refused_with_its_count():
    bench = changed("stage", centre_m=(12.5e-3, 24.499e-3))
    assert_refused(findings(bench), "stage: x target", "0.0245 m", "more)", "nothing was moved")
    assert bench.log == []


def test_an_approach_that_leaves_the_limits_is_refused():
    bench = changed("stage", park_m=(12.5e-3, 0.52e-3))
    assert_refused(findings(bench), "x approach", "step")


@pytest.mark.parametrize("correction_m", [3e-5, 1e-5])
def test_the_controllers_own_backlash_correction_counts_too(correction_m):
    """It goes below the approach; a plan that the driver would refuse in its middle is refused before it begins."""
    where = {"park_m": (12.5e-3, 0.57e-3), "approach_m": 5e-5, "backlash_correction_m": correction_m}
    found = findings(changed("stage", driver="emulated", **where))
    if correction_m > 2e-5:
        assert_refused(found, "x backlash correction 0.00049 m of step", "or lower stage.backlash_correction_m")
    else:
        assert found == []
    # A simulated stage goes straight to where it is sent.
    assert findings(changed("stage", **where)) == []


def test_an_exposure_out_of_range_is_refused():
    bench = FakeBench(small_profile(evaluation_exposures_s=(1e-7, 3e-4)))
    assert_refused(findings(bench), "exposure 1e-07 s", "1e-06 .. 10 s")


def with_exposures(bench: FakeBench, low: float, high: float) -> FakeBench:
    """The bench with a camera that takes these exposures."""
    info = replace(bench.camera.info, exposure_s=Interval(low, high, "s"))
    bench.camera.__class__ = type("OtherCamera", (type(bench.camera),), {"info": property(lambda camera: info)})
    return bench


def test_a_ladder_below_the_camera_gets_a_legal_one_to_paste():
    """The paper's shortest exposure may be below what the camera's line time allows."""
    series = (3e-5, 3e-4, 3e-3, 3e-2, 0.3)
    (finding,) = findings(with_exposures(FakeBench(small_profile(evaluation_exposures_s=series)), 59.1234567e-6, 10.0))
    assert finding.severity is Severity.ERROR
    before, line = finding.message.split("the nearest legal line in [scan] is: ")
    assert before == "camera: exposure 3e-05 s of evaluation_exposures_s is outside 5.91235e-05 .. 10 s; "
    # Pasted over the old line it makes a profile that passes.
    pasted = tomllib.loads(line)["evaluation_exposures_s"]
    assert len(pasted) == 5
    assert (pasted[0], pasted[-1]) == (59.1234567e-6, 0.3)
    again = FakeBench(small_profile(evaluation_exposures_s=tuple(pasted)))
    assert findings(with_exposures(again, 59.1234567e-6, 10.0)) == []


def test_every_key_with_an_illegal_exposure_is_named():
    bench = FakeBench(small_profile(calibration_exposure_s=20.0, empty_exposure_s=1e-8))
    first, second = findings(bench)[:2]
    assert first.message.endswith("calibration_exposure_s = 10.0")
    assert second.message.endswith("empty_exposure_s = 1e-06")


def test_every_exposure_of_a_bracket_is_checked():
    bench = FakeBench(small_profile(calibration_exposures_s=(1e-8, 0.3)))
    assert_refused(
        findings(bench), "exposure 1e-08 s of calibration_exposures_s", "calibration_exposures_s = [1e-06, 0.3]"
    )


def test_an_exposure_that_no_key_explains_is_refused_too():
    bench = FakeBench()
    steps = (*bench.plan.steps[:-1], replace(bench.plan.steps[-1], exposure_s=11.0))
    bench.plan = replace(bench.plan, steps=steps)
    assert_refused(findings(bench), "exposure 11 s of the plan")


def test_a_manual_light_needs_somebody_who_can_answer():
    bench = FakeBench()

    class Asked:
        def __init__(self, there):
            self.there = there

        def __call__(self, request):
            pytest.fail("nobody is asked beforehand")

        def present(self):
            return self.there

    for ask in (nobody, Asked(False)):
        light = ManualLight(ask)
        light.open()
        bench.devices = replace(bench.devices, light=light)
        assert_refused(findings(bench), "light: a person", "start the scan in one")
    light = ManualLight(Asked(True))
    light.open()
    bench.devices = replace(bench.devices, light=light)
    (finding,) = findings(bench)
    assert finding.severity is Severity.WARNING


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=8, unique=True), st.floats(1e-7, 1e-2), st.floats(1.5, 1e6))
def test_a_legal_ladder_is_legal(exposures, low, span):
    limit = Interval(low, low * span, "s")
    wanted = tuple(sorted(exposures))
    ladder = legal_ladder(wanted, limit)
    assert len(ladder) == len(wanted)
    assert all(limit.contains(value) for value in ladder)
    assert list(ladder) == sorted(set(ladder))
    if limit.contains(wanted[0]) and limit.contains(wanted[-1]):
        assert ladder[0] == pytest.approx(wanted[0], rel=1e-3)
        assert ladder[-1] == pytest.approx(wanted[-1], rel=1e-3)


def test_too_much_light_is_refused_and_bright_peaks_are_warned_of():
    bench = changed("light", photons_per_second=1e9)
    assert_refused(findings(bench), "electrons", "dim the light")
    warned = [f for f in findings(changed("light", photons_per_second=2e7)) if "clipped" in f.message]
    assert {f.severity for f in warned} == {Severity.WARNING}


def test_the_beams_peak_follows_fresnel():
    # On the axis |U|^2 = 4 sin^2(pi F/2) with F = a^2/(lambda z): 4 at F = 1, which is also the global maximum there.
    raw = small_profile().model_dump()
    raw["geometry"] |= {"distance_m": (250e-6) ** 2 / 561e-9}
    assert peak_over_mean(Profile.model_validate(raw)) == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda folder: folder / "run.dat", ".h5"),
        (lambda folder: folder / "absent" / "run.h5", "does not exist"),
        (lambda folder: (folder / "there.h5").write_bytes(b"mine") and folder / "there.h5", "exists already"),
    ],
)
def test_bad_outputs_are_refused(tmp_path, make, word):
    assert_refused(findings(FakeBench(), make(tmp_path)), word)


def test_a_resumed_run_needs_its_file(tmp_path):
    assert_refused(findings(FakeBench(), tmp_path / "run.h5", resume=True), "nothing to resume")


def test_a_full_disk_is_refused(tmp_path):
    full = findings(FakeBench(), tmp_path / "run.h5", 10**9, free=lambda folder: 10**9)
    assert_refused(full, "1000 MB", "make room")
    assert findings(FakeBench(), tmp_path / "run.h5", 10**9, free=lambda folder: 10**9 + DISK_RESERVE) == []


def test_a_dead_device_is_named():
    bench = FakeBench()

    def lost():
        raise ConnectionLost("stage", "does not answer; check its cable")

    bench.stage.position = lost
    assert_refused(findings(bench), "stage: does not answer")
    bench.camera.close()
    assert_refused(findings(bench), "camera: is closed")


def test_a_camera_that_is_not_the_profiles_is_refused():
    assert_refused(findings(changed("camera", shape=(8, 8))), "(6, 8)", "(8, 8)")
    assert_refused(findings(changed("camera", pixel_size_m=5e-6)), "pixel")


def test_an_unknown_light_is_a_warning():
    bench = FakeBench()
    bench.light.state = LightState.UNKNOWN
    (finding,) = findings(bench)
    assert finding.severity is Severity.WARNING
    require([finding])


@pytest.mark.parametrize("name", ["paper", "quick", "tiny"])
def test_the_shipped_profiles_pass(name):
    from app.devices import open_devices

    profile = load_profile(name)
    with open_devices(profile) as devices:
        require(preflight(make_plan(profile), profile, devices, None, 0))
