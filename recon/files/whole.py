"""Files that appear whole or not at all: until a new one lies safely on the disk, the one before keeps its name."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.files.disk import fsync


@contextmanager
def whole(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """The path to write to inside; afterwards it bears the name that was asked for.

    On any error, a full disk or Ctrl-C included, what was written is removed and the file before is as it was. Who may
    read it is as for any new file in that folder, whatever a library that writes it thinks: some write through a
    temporary file of their own, which only its owner may read.

    Args:
        path: of the file; one that is there is replaced.
        keep: a free name for the file that is replaced; there has to be one.

    Raises: what is raised inside; OSError when the disk does not take it.
    """
    part = path.with_name(path.name + ".part")
    try:
        mode = _usual_mode(part)
        yield part
        if stat.S_IMODE(part.stat().st_mode) != mode:
            part.chmod(mode)
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


def _usual_mode(path: Path) -> int:
    """Permissions of a new file of that name, by umask and folder: asked of the system, since a umask that is read is
    changed for a moment, for all threads."""
    path.unlink(missing_ok=True)
    path.touch(exist_ok=False)
    try:
        return stat.S_IMODE(path.stat().st_mode)
    finally:
        path.unlink()
