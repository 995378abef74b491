"""A run file on its disk: opened for the writer, its errors with their numbers, and safely there."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from recon.files.opening import open_for_writing


def reopen(path: Path) -> h5py.File:
    """A run file for its writer. Raises OSError."""
    # Without a chunk cache a frame goes straight to the file, and a full disk shows in the write itself.
    return open_for_writing(path, rdcc_nbytes=0)


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """HDF5 reports a full disk as RuntimeError or as OSError without its number: make it an OSError with number."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        number = int(found.group(1)) if found else getattr(error, "errno", None) or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def require_room(path: Path, size: int) -> None:
    """Raise OSError where the disk of a new file has less than `size` bytes: HDF5 does not survive a full one."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"needs {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free", str(path))


def fsync(path: Path) -> None:
    """Make the operating system put a file, or the names in a folder, on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder on a system that cannot open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
