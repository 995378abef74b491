"""The confusion table of the decoders, from finished cases."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import which_decoder


def _case(name: str, kind: str, picked: str, verdict: str = "recovered", photons: float = 1000.0) -> dict:
    verdicts = dict.fromkeys(which_decoder.DECODERS, "ambiguous")
    verdicts[which_decoder.right_decoder(kind)] = verdict
    return {"object": name, "kind": kind, "picked": picked, "photons": photons, "pose": "known",
            "verdicts": verdicts, "core_seconds": 2.0}  # fmt: skip


CASES = [
    _case("a", "three", "mnist-3"),
    _case("b", "four", "kuzushiji", verdict="not of this class"),
    _case("c", "character", "kuzushiji"),
    _case("d", "four", "mnist-4"),
]


def test_rows_count_all_and_those_that_were_recovered():
    assert which_decoder.confusion(CASES) == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    everything, recovered, cost = which_decoder.rows(CASES, 1000, "known")
    assert everything[1].startswith("3 of 4, 75.0 %")
    assert recovered[1].startswith("3 of 3, 100.0 %")
    assert (everything[2], recovered[2]) == ("-", "at least 95 %")
    assert cost[1] == "2.0"


def test_finished_cases_are_found_again_and_torn_lines_are_not(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    other = _case("e", "three", "mnist-3", photons=300.0)
    path.write_text("\n".join(map(json.dumps, [*CASES, other])) + '\n{"object": "f", "ki', encoding="utf-8")
    assert sorted(which_decoder.read(path, 1000.0, "known")) == ["a", "b", "c", "d"]
    assert list(which_decoder.read(path, 300.0, "known")) == ["e"]
    assert which_decoder.read(tmp_path / "nothing.jsonl", 1000.0, "known") == {}
