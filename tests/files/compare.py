"""Whether two run files hold the same measurement, whenever and in however many pieces it was made."""

from pathlib import Path

import h5py
import numpy as np

from recon.files import schema
from recon.files.read import open_run

WHEN = {schema.TIMESTAMPS, schema.START_TIME, schema.END_TIME, schema.LOG, "seconds", schema.NODE_MAP}
"""What differs between two runs of the same measurement; an emulated camera's settings name a temporary folder."""


def measurement(path: Path) -> dict[str, np.ndarray]:
    """Every dataset that does not say when; frames that supersede others are told by `open_run`."""
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset) and name.rsplit("/", 1)[-1] not in WHEN and schema.REVISIONS not in name:
            found[name] = item[...]

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return found


def points_taken_again(*paths: Path) -> set[int]:
    points = set()
    for path in paths:
        with open_run(path) as run:
            points |= {revision.point for revision in run.revisions}
    return points


def assert_same_measurement(first: Path, second: Path, other_visits: bool = False) -> None:
    """`other_visits`: a point that was taken again was found at another true place, and so its frames differ."""
    a, b = measurement(first), measurement(second)
    assert a.keys() == b.keys()
    points = points_taken_again(first, second) if other_visits else set()
    assert len(points) <= 1
    for name, value in a.items():
        other = b[name]
        assert value.dtype == other.dtype, name
        if name.endswith((f"{schema.DETECTOR}/{schema.DATA}", schema.PTYLAB_FRAMES)):
            entry = name.split("/")[0] if "/" in name else schema.entry_name(1)
            kept = ~np.isin(a[f"{entry}/{schema.DETECTOR}/{schema.POSITION_INDEX}"], list(points))
            value, other = value[kept], other[kept]
        elif name.endswith(schema.TRUTH_POSITIONS) and schema.TRUTH in name:
            kept = ~np.isin(np.arange(len(value)), list(points))
            value, other = value[kept], other[kept]
        np.testing.assert_array_equal(value, other, err_msg=name)
