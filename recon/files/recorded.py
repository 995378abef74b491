"""The raw frames of a run one by one, in the order in which they were taken: for showing a run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError

from . import schema
from .frames import Hdf5Frames
from .read import open_run
from .revisions import Pool

_FIRST, _EMPTY = 2, 3
EMPTY = 0
"""In place of an entry's number: the frames of the empty beam."""


@dataclass(frozen=True)
class Facts:
    """What is recorded with the committed frames of one entry, or of the empty beam; of points that were taken again
    the last visit.

    Attributes:
        exposures_s, times: (N,) exposures that took place; seconds since the epoch at their ends.
        commanded_m, readback_m: (N, 2) displacements (y, x); NaN where nobody knows, as with the empty beam.
    """

    exposures_s: NDArray[np.float64]
    times: NDArray[np.float64]
    commanded_m: NDArray[np.float64]
    readback_m: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.times)


class RecordedFrames:
    """Frames of a run, read when they are asked for; the file stays open until `close`.

    Raises:
        DatasetError: not a run, damaged, or being written.
    """

    def __init__(self, path: Path):
        self._run = open_run(path)
        self._file = self._run._file
        self._path = path
        first = self._file[schema.entry_name(1)]
        self._pool = Pool(first)
        self._committed = first[schema.COMMITTED][...]
        self._sources: dict[int, Hdf5Frames] = {}

    def close(self) -> None:
        self._run.close()

    def __enter__(self) -> RecordedFrames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def entries(self) -> Sequence[int]:
        """Numbers of the entries with the exposures' order; `EMPTY` first where there are frames of the empty beam."""
        first = self._file[schema.entry_name(1)]
        return [*([EMPTY] if schema.EMPTY in first else []), *range(1, self._run.entries + 1)]

    def facts(self, entry: int) -> Facts:
        """Of all committed frames of an entry. Raises `DatasetError`."""
        count = int(self._committed[_EMPTY if entry == EMPTY else _FIRST if entry == 1 else entry + 2])
        group = self._group(entry)
        try:
            numbers = [group[name][:count] for name in (schema.COUNT_TIME, schema.TIMESTAMPS)]
            if entry == EMPTY:
                nowhere = np.full((count, 2), np.nan)
                return Facts(numbers[0], numbers[1], nowhere, nowhere)
            moves = self._file[schema.entry_name(entry)][schema.TRANSFORMATIONS]
            places = [moves[name][:count] for name in (schema.COMMANDED, schema.READBACK)]
        except (KeyError, OSError) as error:
            raise DatasetError(f"{self._path}: entry {entry} cannot be read ({error}); the file is damaged") from None
        newest = self._pool.newest
        return Facts(
            newest(entry, schema.COUNT_TIME, numbers[0]),
            newest(entry, schema.TIMESTAMPS, numbers[1]),
            newest(entry, schema.COMMANDED, places[0]),
            newest(entry, schema.READBACK, places[1]),
        )

    def image(self, entry: int, index: int) -> NDArray[np.uint16]:
        """(rows, columns) of a committed frame. Raises `DatasetError`."""
        if entry not in self._sources:
            data: h5py.Dataset = self._group(entry)[schema.DATA]
            replaced = {} if entry == EMPTY else self._pool.replaced(entry)
            self._sources[entry] = Hdf5Frames(data, 0, self._pool.frames, replaced)
        return self._sources[entry].raw(index)

    def _group(self, entry: int) -> h5py.Group:
        name = f"{schema.entry_name(1)}/{schema.EMPTY}" if entry == EMPTY else schema.entry_name(entry)
        try:
            return self._file[name] if entry == EMPTY else self._file[name][schema.DETECTOR]
        except KeyError:
            raise DatasetError(f"{self._path}: lacks {name}; the file is damaged") from None
