"""Files that appear whole or not at all: until a new one lies safely on the disk, the one before keeps its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.files.disk import fsync


@contextmanager
def whole(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """The path to write to inside; afterwards it bears the name that was asked for.

    On any error, a full disk or Ctrl-C included, what was written is removed and the file before is as it was.

    Args:
        path: of the file; one that is there is replaced.
        keep: a free name for the file that is replaced; there has to be one.

    Raises: what is raised inside; OSError when the disk does not take it.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        fsync(part)
        if keep is not None:
            # A second name leaves no moment without a file of the first.
            try:
                os.link(path, keep)
            except OSError:  # a file system without hard links
                path.rename(keep)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    fsync(path.parent)
