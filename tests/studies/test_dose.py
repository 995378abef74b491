"""`study dose` from end to end on a small grid: resumed, in any order, in several processes, on a cluster."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import app.studies.dose as dose_module
from app.errors import Interrupted, UsageError
from app.studies.cases import CaseFile, Outcome
from app.studies.dose import run_dose_study
from app.studies.grid import DoseStudy, label_of, list_cases, numbers
from app.studies.objects import StudyObject, load_objects
from app.studies.runner import StudyError, dealt, processes
from app.studies.work import Assignment, Workshop, work
from recon.decoders.package import load_package
from tests.studies.failing import dies, fails
from tests.studies.rigs import QUICK, SCENE, give_references, objects_file, run, study


def curves_of(values):
    """The curves without what depends on the clock."""
    return [{k: v for k, v in curve.items() if k != "seconds"} for curve in values["curves"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that ran through: its folder and its values."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(study(folder), folder / "out")


def test_it_ends_in_a_figure_a_table_and_one_line_of_numbers(whole):
    folder, values = whole
    (curve,) = values["curves"]
    assert (curve["method"], curve["decoder"], curve["read_noise"]) == ("paper", "mnist", 0.3)
    assert curve["photons"] == [300.0, 1e5]
    for name in ("psnr_db", "psnr32_db", "success", "seconds"):
        assert len(curve[name]) == 2
    assert {"dose50", "dose90"} <= set(curve)
    assert (folder / "out" / "dose.png").read_bytes()[:4] == b"\x89PNG"
    assert len((folder / "out" / "table.csv").read_text().splitlines()) == 3
    assert "dose50" in (folder / "out" / "table.txt").read_text()
    assert len((folder / "out" / "cases.jsonl").read_text().splitlines()) == 4
    json.dumps(values, allow_nan=False)


def test_what_is_there_is_not_computed_again(whole, monkeypatch):
    folder, values = whole
    monkeypatch.setattr(dose_module, "work", lambda *_: pytest.fail("a finished case ran again"))
    assert curves_of(run(study(folder), folder / "out")) == curves_of(values)


def test_a_study_that_was_cut_short_ends_the_same(whole, tmp_path):
    folder, values = whole
    out = tmp_path / "out"
    give_references(study(folder), out)
    lines = (folder / "out" / "cases.jsonl").read_bytes().splitlines(keepends=True)
    # Two cases done, the third one cut off in its middle as a crash leaves it.
    (out / "cases.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][: len(lines[2]) // 2])
    assert curves_of(run(study(folder), out)) == curves_of(values)
    assert len(CaseFile(out).read()) == 4


def test_the_order_of_the_cases_does_not_matter(whole):
    folder, _ = whole
    asked = study(folder)
    objects = load_objects(asked.objects, None)
    digest = load_package("mnist").sha256
    cases = list_cases(asked, objects, SCENE, digest)
    references = dict.fromkeys((o.name for o in objects), dose_module.Reference(10.0, 14.0, 10.0, 14.0))
    known = {case.key: outcome for case, outcome in _done(folder, cases)}
    for batch, order in ((1, [3, 0, 2, 1]), (2, [1, 2, 3, 0])):
        shop = Workshop(Assignment(SCENE, {o.name: o for o in objects}, references, "cpu", batch, QUICK))
        found = dict(work(shop, [cases[k] for k in order]))
        assert len(found) == 4
        for case, outcome in found.items():
            assert outcome.psnr_db == pytest.approx(known[case.key].psnr_db, abs=1e-3)


def _done(folder, cases):
    outcomes = CaseFile(folder / "out").read()
    return [(case, outcomes[case.key]) for case in cases]


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(whole, tmp_path, monkeypatch):
    folder, values = whole
    out = tmp_path / "out"
    plain = dose_module.Course.advance

    def pressed(course, done, note=""):
        plain(course, done, note)
        if note:
            course._stopped = True

    monkeypatch.setattr(dose_module.Course, "advance", pressed)
    with pytest.raises(Interrupted, match="1 of 4 cases are kept") as told:
        run(study(folder), out)
    values_told = told.value.values
    assert (values_told["cases"], values_told["cases_asked"]) == (1, 4)
    assert len(values_told["curves"]) == 1
    assert (out / "dose.png").is_file()
    monkeypatch.setattr(dose_module.Course, "advance", plain)
    assert curves_of(run(study(folder), out)) == curves_of(values)


def test_several_processes_find_the_same(whole, tmp_path):
    folder, values = whole
    found = run(study(folder), tmp_path / "out", process_count=2)
    for mine, other in zip(curves_of(found), curves_of(values), strict=True):
        np.testing.assert_allclose(mine["psnr_db"], other["psnr_db"], atol=1e-3)
        assert mine["success"] == other["success"]


@pytest.mark.parametrize(("work", "says"), [(fails, "disk of the moon"), (dies, "exit code 7")])
def test_a_process_that_fails_is_reported(work, says):
    with pytest.raises(StudyError, match=says):
        list(processes(work, None, [[1], [2]], lambda: False, 1))


def test_a_missing_dask_says_how_to_get_it(whole, tmp_path):
    try:
        import distributed  # noqa: F401
    except ImportError:
        folder, _ = whole
        with pytest.raises(StudyError, match=r"pip install 'ptychoscope\[dask\]'"):
            run(study(folder), tmp_path / "out", scheduler="tcp://127.0.0.1:1", process_count=None)
    else:
        pytest.skip("dask is installed")


def test_a_study_of_more_exposures_than_anybody_waits_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("app.studies.grid.MOST_EXPOSURES", 3)
    with pytest.raises(UsageError, match=r"--seeds 50 make \d+ exposures, more than 3"):
        run_dose_study(replace(study(tmp_path), seeds=50), tmp_path / "out", scene=SCENE, device="cpu")


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_finds_the_same(whole, tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask is not installed: pip install 'ptychoscope[dask]'")
    folder, values = whole
    with distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        found = run(study(folder), tmp_path / "out", scheduler=cluster.scheduler_address, process_count=None)
    assert [c["psnr_db"] for c in curves_of(found)] == [c["psnr_db"] for c in curves_of(values)]


def test_pixels_and_masks_in_a_free_pose_run_too(tmp_path):
    asked = study(tmp_path, truth="mask", pose="free", methods=("paper", "pixel"), photons=(1e5,), count=1)
    values = run(asked, tmp_path / "out")
    assert [(c["method"], c["decoder"]) for c in values["curves"]] == [("paper", "mnist"), ("pixel", None)]
    assert all(np.isfinite(c["psnr_db"]).all() for c in values["curves"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"truth": "grey"}, "--truth 'grey'"),
        ({"pose": "fixed"}, "--pose 'fixed'"),
        ({"methods": ("paper", "magic")}, "--methods 'magic'"),
        ({"positions": 17}, "--positions 17"),
        ({"photons": (0.0,)}, "--photons 0"),
        ({"read_noise": (-1.0,)}, "--read-noise -1"),
        ({"objects": "nowhere"}, "objects 'nowhere'"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, changes, says):
    with pytest.raises(UsageError, match=says) as caught:
        run_dose_study(replace(study(tmp_path), **changes), tmp_path / "out", scene=SCENE, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["30;100", "", "a", "30,,100", "nan"])
def test_a_list_of_numbers_is_read_or_refused(text):
    assert numbers("--photons", "30,1e3") == (30.0, 1000.0)
    with pytest.raises(UsageError, match="--photons"):
        numbers("--photons", text)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --out"):
        CaseFile(tmp_path / "file" / "out")


def test_a_decoder_of_one_class_sees_that_class_only(tmp_path):
    assert label_of(load_package("mnist").training) is None
    assert label_of(load_package("mnist-3").training) == 3
    objects = [StudyObject(f"o:{k}", np.zeros((32, 32), np.float32), k) for k in (2, 3, 3)]
    asked = DoseStudy(decoders=("mnist-3",), photons=(10.0,), read_noise=(0.3,), methods=("paper",))
    names = [case.frames.object for case in list_cases(asked, objects, SCENE, "")]
    assert names == ["o:3", "o:3"]
    with pytest.raises(UsageError, match="mnist-3: draws 3 only"):
        list_cases(asked, objects[:1], SCENE, "")


def test_work_is_dealt_whole_objects_first():
    items = [(k, n) for k in range(3) for n in range(4)]
    assert [len(share) for share in dealt(items, lambda i: i[0], 3)] == [4, 4, 4]
    shares = dealt(items, lambda i: i[0], 6)
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert all(len({i[0] for i in share}) == 1 for share in shares)
    assert len(shares) == 6


def test_lines_of_other_things_in_the_file_are_passed_over(tmp_path):
    file = CaseFile(tmp_path)
    file.path.write_bytes(b'[1]\n{"key": 3}\nnot json\n')
    assert file.read() == {}
    objects_file(tmp_path)
    case = list_cases(study(tmp_path), load_objects(study(tmp_path).objects, None), SCENE, "")[0]
    file.add(case, Outcome(1.0, 2.0, 0.5, True, 0.1))
    assert file.read()[case.key].psnr_db == 1.0
