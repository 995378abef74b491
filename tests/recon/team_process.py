"""One of two processes of a team, for `test_team`: calibrates, wants to stop, and fails, and writes what came out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recon.calibrate import CalibrationSettings, calibrate
from recon.dataset import DatasetError
from recon.streaming import ArrayFrames, Electrons, Streamed
from recon.team import Group, TeamError
from tests.recon.scans import bright_scan

SETTINGS = CalibrationSettings(
    probe_diameter_m=280e-6,
    warm_epochs=2,
    joint_epochs=3,
    full_epochs=1,
    polish_epochs=2,
    batch=4,
    flux_prior=0.05,
    lit_energy=0.9,
)
COUNT = 17
"""Frames: the last step of an epoch has one, and one process none of it."""


class Failing(ArrayFrames):
    """Frames of which one cannot be read once `broken` is set."""

    broken = False

    def raw(self, frame):
        if self.broken:
            raise DatasetError(f"frame {frame} cannot be read")
        return super().raw(frame)


def scan_of_frames(data, source=ArrayFrames):
    """The same scan, its frames streamed."""
    names = ("positions_m", "exposures_s", "geometry", "dark_variance", "mask", "indices", "name", "empty")
    kept = {name: getattr(data, name) for name in (*names, "empty_exposure_s")}
    return Streamed(source(data.frames), Electrons(), np.arange(len(data)), **kept)


def main(folder: Path, rank: int) -> None:
    """What `test_team` asks of each process."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    team = Group(local=2)
    data = bright_scan(count=COUNT).data
    checkpoint = folder / "state.checkpoint"
    found = calibrate(data, SETTINGS, team=team, checkpoint=checkpoint)
    far = calibrate(scan_of_frames(data), SETTINGS, team=team, memory_bytes=0)
    light = found.illumination
    np.savez(
        folder / f"rank{rank}.npz",
        loss=found.loss,
        streamed=far.loss,
        distance=found.distance_m,
        object=found.object,
        probe=light.probe,
        positions=light.positions_m,
        flux=found.flux,
    )
    # Rank 1 alone wants to stop, in the middle of the third epoch.
    asked = []

    def stop():
        asked.append(None)
        return rank == 1 and len(asked) > 10

    early = calibrate(data, SETTINGS, team=team, stop=stop, checkpoint=checkpoint)
    failing = replace(scan_of_frames(data, Failing), name="failing")
    calls = []

    def seen(_):
        calls.append(None)
        object.__setattr__(failing.source, "broken", rank == 1)

    outcome = "nothing"
    try:
        calibrate(failing, SETTINGS, team=team, memory_bytes=0, report=seen)
    except (DatasetError, TeamError) as error:
        outcome = f"{type(error).__name__}: {error}"
    result = {"epochs": len(early.loss), "interrupted": early.interrupted, "loss": list(early.loss), "error": outcome}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
