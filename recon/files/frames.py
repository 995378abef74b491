"""Raw frames where they lie: an HDF5 dataset read frame by frame, an uncompressed npz member mapped into memory."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import DatasetError, turned
from recon.streaming import RawFrames

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Of a member of a zip archive (PKWARE's application note, 4.3.7); name and extra field follow."""


class Hdf5Frames:
    """Frames of a dataset (N, H, W), one whole frame a read: programs that record write one frame a chunk.

    Args:
        dataset: of an open file, which `close` closes.
        orientation: of `turned`, applied to every frame.
        others, replaced: frames elsewhere, and which of them stand for which frames here.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        orientation: int = 0,
        others: h5py.Dataset | None = None,
        replaced: Mapping[int, int] = MappingProxyType({}),
    ):
        self._dataset = dataset
        self._others, self._replaced = others, replaced
        self._file = dataset.file
        self._orientation = orientation

    @property
    def shape(self) -> tuple[int, int, int]:
        count, rows, columns = self._dataset.shape
        return (count, columns, rows) if self._orientation & 4 else (count, rows, columns)

    def raw(self, frame: int) -> NDArray:
        """(H, W) of one frame. Raises `DatasetError`: the file is closed, truncated, or needs a filter not there."""
        try:
            row = self._replaced.get(frame)
            image = self._dataset[frame] if row is None or self._others is None else self._others[row]
            return turned(image, self._orientation)
        except (OSError, ValueError, RuntimeError) as error:
            name = self._file.filename if self._file else "a file that is closed"
            reason = " ".join(str(error).split())
            raise DatasetError(f"{name}: frame {frame} cannot be read ({reason})") from None

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class CornerFrames:
    """Far-field frames whose zero frequency lies in the corner, with it in the middle instead."""

    frames: RawFrames

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames.shape

    def raw(self, frame: int) -> NDArray:
        """(H, W) of one frame. Raises what the frames raise."""
        return np.fft.fftshift(self.frames.raw(frame))

    def close(self) -> None:
        self.frames.close()


def mapped_member(path: Path, name: str) -> NDArray | None:
    """An array of an npz archive mapped read-only; None where it is compressed, which cannot be mapped.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: not such an archive, or no such array.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            header = member.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        fields = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    start = info.header_offset + LOCAL_HEADER.size + fields[-2] + fields[-1] + header
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
