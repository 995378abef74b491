"""Frames that stay in their file until a batch needs them, so that memory follows the batch and not the scan.

A `Streamed` scan reads raw frames one at a time, whole (recorders write one frame a chunk), and makes electrons of
what the window keeps: dark subtracted, cropped, binned. `ahead` reads the batches of a pass on a thread of its own
while the ones before are worked on, and a `Hold` keeps as many frames as its budget allows. numpy only.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, Geometry, Ptychogram, Scan, binned_geometry, block_sums, blocks

AHEAD = 2
"""Batches that wait, read, for the loop."""
SHARE_OF_MEMORY = 0.5
"""Of what is available, to be filled with frames unless somebody says otherwise."""
PER_PASS = 8 << 20
"""Bytes of frames at once in a pass that only adds up."""

Pixels = tuple[NDArray[np.float32], NDArray[np.bool_] | None]
"""(B, H, W) electrons and clipped pixels, None where none is."""


class RawFrames(Protocol):
    """Where raw frames are: numbers as the camera or another program wrote them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        ...

    def raw(self, frame: int) -> NDArray:
        """(H, W) of one frame, read-only. Raises `DatasetError` when it cannot be read."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...


@dataclass(frozen=True)
class ArrayFrames:
    """Frames (N, H, W) of an array, which may be mapped from a file."""

    values: NDArray

    @property
    def shape(self) -> tuple[int, int, int]:
        count, rows, columns = self.values.shape
        return count, rows, columns

    def raw(self, frame: int) -> NDArray:
        return self.values[frame]

    def close(self) -> None:
        """Nothing: a mapping goes with its last reference."""


@dataclass(frozen=True)
class Electrons:
    """How raw numbers become electrons: (raw - dark) x gain.

    Attributes:
        gain: electrons per raw unit.
        darks: (H, W) each, in raw units; none for nothing to subtract.
        which: (N,) the dark of each raw frame; only where there are several.
        saturation: raw number from which on a pixel is clipped; None where that cannot be known.
    """

    gain: float = 1.0
    darks: tuple[NDArray, ...] = ()
    which: NDArray[np.int64] | None = None
    saturation: float | None = None

    def __call__(self, raw: NDArray, frame: int, window: tuple[slice, slice]) -> Pixels:
        """(h, w) electrons of the window of one raw frame, and its clipped pixels or None."""
        part = raw[window]
        clipped = None if self.saturation is None else part >= self.saturation
        if self.darks:
            dark = self.darks[0 if self.which is None else int(self.which[frame])]
            electrons = ((part - dark[window]) * self.gain).astype(np.float32)
        elif self.gain != 1.0:
            electrons = (part * np.float64(self.gain)).astype(np.float32)
        else:
            electrons = part.astype(np.float32)
        return electrons, clipped if clipped is not None and clipped.any() else None


@dataclass(frozen=True)
class Streamed:
    """A scan whose frames are read when they are asked for; else a `Ptychogram`, with its attributes.

    A context manager: leaving it closes the file.

    Attributes:
        source, electrons: raw frames and what makes electrons of them.
        chosen: (N,) numbers of the source's frames, in the order of the scan.
        corner: first (row, column) of the raw frame that counts.
        binning: raw pixels per pixel, each way.
    """

    source: RawFrames
    electrons: Electrons
    chosen: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    exposures_s: NDArray[np.float64]
    geometry: Geometry
    dark_variance: NDArray[np.float32]
    mask: NDArray[np.bool_]
    indices: NDArray[np.int64]
    quantum_efficiency: float = 1.0
    name: str = ""
    empty: NDArray[np.float32] | None = None
    empty_exposure_s: float | None = None
    corner: tuple[int, int] = (0, 0)
    binning: int = 1

    def __post_init__(self) -> None:
        n, shape = len(self.chosen), self.geometry.shape
        expected = {"positions_m": (n, 2), "exposures_s": (n,), "indices": (n,), "dark_variance": shape, "mask": shape}
        for key, value in expected.items():
            if getattr(self, key).shape != value:
                raise DatasetError(f"{self.name}: {key} has shape {getattr(self, key).shape}, expected {value}")
        if self.empty is not None and self.empty.shape != shape:
            raise DatasetError(f"{self.name}: empty has shape {self.empty.shape}, expected {shape}")
        if not np.isfinite(self.positions_m).all():
            raise DatasetError(f"{self.name}: positions contain values that are not finite")

    def __len__(self) -> int:
        return len(self.chosen)

    def __enter__(self) -> Streamed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read any more."""
        self.source.close()

    @property
    def nbytes(self) -> int:
        """Of all frames, as electrons."""
        rows, columns = self.geometry.shape
        return 4 * len(self) * rows * columns

    def one(self, frame: int) -> Pixels:
        """(H, W) electrons of a frame and its clipped pixels or None. Raises `DatasetError`."""
        number = int(self.chosen[frame])
        rows, columns = (n * self.binning for n in self.geometry.shape)
        top, left = self.corner
        raw = self.source.raw(number)
        electrons, clipped = self.electrons(raw, number, (slice(top, top + rows), slice(left, left + columns)))
        if raw.dtype.kind == "f" and not (finite := np.isfinite(electrons)).all():
            # Programs mark bad pixels so; those that the mask knows of hold nothing.
            if (np.asarray(blocks(~finite, self.binning).any((-3, -1))) & self.mask).any():
                raise DatasetError(f"{self.name}: frames contain values that are not finite; mask or remove them")
            electrons = np.where(finite, electrons, np.float32(0))
        if self.binning > 1:
            electrons = block_sums(electrons, self.binning)
            clipped = None if clipped is None else np.asarray(blocks(clipped, self.binning).any((-3, -1)))
        return electrons, clipped

    def read(self, frames: Sequence[int]) -> Pixels:
        """(B, H, W) electrons and clipped pixels of some frames. Raises `DatasetError`."""
        out = np.empty((len(frames), *self.geometry.shape), np.float32)
        clipped: NDArray[np.bool_] | None = None
        for k, frame in enumerate(frames):
            out[k], bad = self.one(int(frame))
            if bad is not None:
                clipped = np.zeros(out.shape, bool) if clipped is None else clipped
                clipped[k] = bad
        return out, clipped

    def load(self) -> Ptychogram:
        """All frames, in memory. Raises `DatasetError`."""
        frames, saturated = self.read(range(len(self)))
        return Ptychogram(
            frames=frames,
            saturated=saturated,
            positions_m=self.positions_m,
            exposures_s=self.exposures_s,
            geometry=self.geometry,
            dark_variance=self.dark_variance,
            mask=self.mask,
            indices=self.indices,
            quantum_efficiency=self.quantum_efficiency,
            name=self.name,
            empty=self.empty,
            empty_exposure_s=self.empty_exposure_s,
        )

    def select(self, keep: NDArray) -> Streamed:
        """The frames chosen by an index or boolean array."""
        return replace(
            self,
            chosen=self.chosen[keep],
            positions_m=self.positions_m[keep],
            exposures_s=self.exposures_s[keep],
            indices=self.indices[keep],
        )

    def crop(self, shape: tuple[int, int]) -> Streamed:
        """The centred (rows, columns) window of every frame. Raises `DatasetError` where it leaves the frame."""
        rows, columns = self.geometry.shape
        top, left = rows // 2 - shape[0] // 2, columns // 2 - shape[1] // 2
        if top < 0 or left < 0 or top + shape[0] > rows or left + shape[1] > columns:
            raise DatasetError(f"{self.name}: window {shape} leaves the frame {self.geometry.shape}")
        window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        return replace(
            self,
            corner=(self.corner[0] + top * self.binning, self.corner[1] + left * self.binning),
            geometry=replace(self.geometry, shape=shape),
            dark_variance=self.dark_variance[window],
            mask=self.mask[window],
            empty=None if self.empty is None else self.empty[window],
        )

    def binned(self, factor: int) -> Streamed:
        """`Ptychogram.binned`, frame by frame when it is read. Raises `DatasetError`."""
        geometry = binned_geometry(self.geometry, factor, self.name)
        return replace(
            self,
            binning=self.binning * factor,
            geometry=geometry,
            dark_variance=block_sums(self.dark_variance, factor),
            mask=np.asarray(blocks(self.mask, factor).all((-3, -1))),
            empty=None if self.empty is None else block_sums(self.empty, factor),
        )


@dataclass(frozen=True)
class Sums:
    """What one pass over all frames shows.

    Attributes:
        total: (H, W) float64, all frames added up, bad pixels too.
        light: (N,) float64, electrons of each frame on pixels that are neither bad nor clipped.
        clipped: whether any pixel of any frame is clipped.
    """

    total: NDArray[np.float64]
    light: NDArray[np.float64]
    clipped: bool

    def level(self, shape: tuple[int, int], binning: int) -> Sums:
        """The same of the centred (rows, columns) window, binned; `light` stays that of the whole frame."""
        rows, columns = self.total.shape
        top, left = rows // 2 - shape[0] // 2, columns // 2 - shape[1] // 2
        part = self.total[top : top + shape[0], left : left + shape[1]]
        return replace(self, total=blocks(part, binning).sum((-3, -1)))

    @property
    def mean(self) -> NDArray[np.float64]:
        """(H, W) mean frame."""
        return self.total / len(self.light)


def sums_of(data: Scan) -> Sums:
    """One pass over the frames, a few at a time. Raises `DatasetError`."""
    total, light, any_clipped = np.zeros(data.geometry.shape), np.zeros(len(data)), False
    step = max(1, PER_PASS // (4 * total.size))
    groups = [list(range(k, min(k + step, len(data)))) for k in range(0, len(data), step)]
    for group, (frames, clipped) in zip(groups, ahead(data, groups), strict=True):
        total += frames.sum(0, dtype=np.float64)
        good = data.mask if clipped is None else data.mask & ~clipped
        light[group] = np.where(good, frames, 0).sum((1, 2), dtype=np.float64)
        any_clipped |= clipped is not None
    return Sums(total, light, any_clipped)


class Hold:
    """Frames of one scan that have been read and stay in memory, the first that come until the budget is used."""

    def __init__(self, data: Scan, budget: int):
        rows, columns = data.geometry.shape
        # Clipped pixels take a byte each, where there are any.
        self.most = min(len(data), budget // (5 * rows * columns))
        self._kept: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, frame: int) -> Pixels | None:
        return self._kept.get(frame)

    def put(self, frame: int, pixels: Pixels) -> None:
        if len(self._kept) < self.most:
            self._kept[frame] = pixels


@dataclass
class _Reader:
    """The thread that fills buffers, and what it and the loop pass to each other."""

    data: Streamed
    hold: Hold | None
    done: queue.Queue[Pixels | BaseException] = field(default_factory=queue.Queue)
    free: queue.Queue[NDArray[np.float32] | None] = field(default_factory=queue.Queue)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, batches: Iterable[Sequence[int]]) -> None:
        try:
            for batch in batches:
                buffer = self.free.get()
                if buffer is None or self.over.is_set():
                    return
                self.done.put(self._filled(buffer[: len(batch)], batch))
        except BaseException as error:
            # The loop raises it; a thread that dies silently would leave it waiting.
            self.done.put(error)

    def _filled(self, out: NDArray[np.float32], batch: Sequence[int]) -> Pixels:
        clipped: NDArray[np.bool_] | None = None
        for k, frame in enumerate(batch):
            pixels = None if self.hold is None else self.hold.get(frame)
            if pixels is None:
                pixels = self.data.one(frame)
                if self.hold is not None:
                    self.hold.put(frame, pixels)
            out[k] = pixels[0]
            if pixels[1] is not None:
                clipped = np.zeros(out.shape, bool) if clipped is None else clipped
                clipped[k] = pixels[1]
        return out, clipped


def ahead(data: Scan, batches: Sequence[Sequence[int]], hold: Hold | None = None) -> Generator[Pixels, None, None]:
    """The pixels of each batch in turn; those of a `Streamed` scan are read ahead by a thread.

    What is given is valid until the next is asked for: buffers are used again.

    Raises:
        DatasetError: a frame cannot be read.
    """
    if not isinstance(data, Streamed):
        for batch in batches:
            yield data.read(batch)
        return
    reader = _Reader(data, hold)
    largest = max((len(batch) for batch in batches), default=0)
    for _ in range(AHEAD + 1):
        reader.free.put(np.empty((largest, *data.geometry.shape), np.float32))
    thread = threading.Thread(target=reader.run, args=(batches,), name="frames ahead", daemon=True)
    thread.start()
    try:
        used: NDArray[np.float32] | None = None
        for _ in batches:
            if used is not None:
                reader.free.put(used)
            got = reader.done.get()
            if isinstance(got, BaseException):
                raise got
            # The whole buffer, of which a short batch is a part.
            used = got[0] if got[0].base is None else got[0].base
            yield got
    finally:
        reader.over.set()
        reader.free.put(None)
        thread.join()


def available_memory() -> int:
    """Bytes that this process may still take: what the system and its control group have left.

    Raises:
        DatasetError: the system does not say.
    """
    left = []
    info = Path("/proc/meminfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        left.append(1024 * int(lines["MemAvailable"].split()[0]))
    else:
        try:
            left.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (ValueError, OSError, AttributeError):
            raise DatasetError("memory: the system does not say how much is free; give a budget (--memory)") from None
    group = Path("/sys/fs/cgroup")
    limit, current, stat = (group / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and current.is_file() and stat.is_file() and limit.read_text().strip() != "max":
        # Cached file pages count as used there and are given back on demand.
        cached = dict(line.split() for line in stat.read_text().splitlines()).get("inactive_file", "0")
        left.append(int(limit.read_text()) - int(current.read_text()) + int(cached))
    return max(0, min(left))


def frame_budget(memory_bytes: float | None, processes: int = 1) -> int:
    """Bytes of frames that one of so many processes on this machine may hold.

    None takes half of what is available, shared among them; a number is for each of them.
    """
    if memory_bytes is None:
        return int(SHARE_OF_MEMORY * available_memory() / processes)
    return int(memory_bytes)
