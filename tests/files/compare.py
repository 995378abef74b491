"""Whether two run files hold the same measurement, whenever and in however many pieces it was made."""

from pathlib import Path

import h5py
import numpy as np

from recon.files import schema

WHEN = {schema.TIMESTAMPS, schema.START_TIME, schema.END_TIME, schema.LOG, "seconds", schema.NODE_MAP}
"""What differs between two runs of the same measurement; an emulated camera's settings name a temporary folder."""


def measurement(path: Path) -> dict[str, np.ndarray]:
    """Every dataset that does not say when."""
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset) and name.rsplit("/", 1)[-1] not in WHEN:
            found[name] = item[...]

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return found


def assert_same_measurement(first: Path, second: Path) -> None:
    a, b = measurement(first), measurement(second)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.dtype == b[name].dtype, name
        np.testing.assert_array_equal(value, b[name], err_msg=name)
