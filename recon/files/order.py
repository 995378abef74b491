"""The order in which a plan's steps are carried out, where it was chosen on the way."""

from __future__ import annotations

import json

import h5py
import numpy as np

from recon.dataset import DatasetError

from . import schema


def plan_in_order(first: h5py.Group) -> str:
    """The plan of a run, from the group of its first entry: JSON with its steps as they were and will be carried out.

    Raises:
        DatasetError: the order is none of the plan's steps.
    """
    text = bytes(first[schema.PLAN][()]).decode()
    if schema.ORDER not in first:
        return text
    order = first[schema.ORDER][...]
    if np.array_equal(order, np.arange(len(order))):
        return text
    plan = json.loads(text)
    steps = plan["steps"]
    if not np.array_equal(np.sort(order), np.arange(len(steps))):
        raise DatasetError(
            f"{first.file.filename}: the order of its plan's steps is damaged; its frames are still there"
        )
    plan["steps"] = [steps[old] | {"number": new} for new, old in enumerate(order.tolist())]
    return json.dumps(plan)
