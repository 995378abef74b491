"""A study that takes seconds: the small scene, two objects, two epochs of the paper's estimator, references given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from app.studies.dose import run_dose_study
from app.studies.grid import DoseStudy
from app.studies.objects import load_objects
from app.studies.scene import StudyScene
from app.studies.scores import Reference, References, reference_key
from recon.decoders.package import load_package
from recon.paper import PaperSettings

SCENE = StudyScene.small(3)
QUICK = PaperSettings(epochs=2, rates=(1.0,), starts=("mean",))


def objects_file(folder: Path) -> Path:
    """A stack of two strokes."""
    images = np.zeros((2, 32, 32), np.float32)
    images[0, 8:24, 14:17] = 1
    images[1, 10:13, 8:24] = images[1, 10:24, 18:21] = 1
    path = folder / "strokes.npy"
    np.save(path, np.clip(gaussian_filter(images, (0, 0.7, 0.7)), 0, 1))
    return path


def study(folder: Path, **changes: Any) -> DoseStudy:
    """Two objects, two doses, one read noise, the paper's estimator."""
    plain: dict[str, Any] = {
        "objects": str(objects_file(folder)),
        "photons": (300.0, 1e5),
        "read_noise": (0.3,),
        "methods": ("paper",),
        "count": None,
    }
    return DoseStudy(**(plain | changes))


def give_references(asked: DoseStudy, out: Path, threshold: float = 12.0) -> None:
    """References for all objects, so that none is computed: success from `threshold` dB."""
    digest, store = load_package("mnist").sha256, References(out)
    out.mkdir(parents=True, exist_ok=True)
    for obj in load_objects(asked.objects, asked.count):
        key = reference_key(obj, asked.truth, SCENE, digest)
        store.add(key, Reference(threshold - 2, threshold + 2, 10.0, 20.0), obj.name)


def run(asked: DoseStudy, out: Path, **how: Any) -> dict[str, Any]:
    """The study, in this process unless told otherwise."""
    give_references(asked, out)
    plain: dict[str, Any] = {"device": "cpu", "process_count": 1}
    return run_dose_study(asked, out, scene=SCENE, paper=QUICK, **(plain | how))
