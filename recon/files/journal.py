"""Changing the structure of a run as a whole: after a kill, a power cut or a full disk all of it is there, or none.

HDF5 changes a file's structure (its groups, their names, the free space) in place, a few bytes here and there; stopped
between two of them it can leave frames that are there and cannot be found. While a scan runs nothing of the structure
changes (`recon.files.schema`). What is added later is made in memory first, then

1. what the file grows by is written behind its end, where nothing points to it yet;
2. what changes within it is written to a journal beside it, each piece with the bytes that it replaces, and a digest;
3. the pieces are written into the file, and the journal goes.

Each is on the disk before the next begins. A journal that is complete is carried out by whoever opens the run next;
one that is not is of no use, and the file is as it was.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import h5py
import numpy as np

from recon.dataset import DatasetError
from recon.files.disk import fsync
from recon.files.opening import LOOK_S, PATIENCE_S, open_for_writing

MAGIC = b"ptychoscope journal 1\n"
SUFFIX = ".journal"
PAGE = 4096
"""Bytes that are looked at together: a page that was touched is held in memory."""
_STORING = threading.RLock()
"""Held while this process stores into a run or opens one."""
_HEAD, _PIECE = struct.Struct("<QQQ"), struct.Struct("<QQ")

Fault = Callable[[str], None]
"""Called with the name of every step before it is taken; tests die in it."""


def no_fault(where: str) -> None:
    """The `Fault` of real life."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that others take the place of.

    Attributes:
        offset: of the first.
        old, new: equally many.
    """

    offset: int
    old: bytes
    new: bytes


@dataclass(frozen=True)
class Journal:
    """What is to be done to a file that has grown already.

    Attributes:
        before, after: length of the file, bytes.
        pieces: within `before`.
    """

    before: int
    after: int
    pieces: tuple[Piece, ...]

    def to_bytes(self) -> bytes:
        """As it lies in its file."""
        parts = [MAGIC, _HEAD.pack(self.before, self.after, len(self.pieces))]
        for piece in self.pieces:
            parts += [_PIECE.pack(piece.offset, len(piece.old)), piece.old, piece.new]
        whole = b"".join(parts)
        return whole + hashlib.sha256(whole).digest()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self | None:
        """None for one that was not finished."""
        whole, digest = raw[:-32], raw[-32:]
        if not whole.startswith(MAGIC) or hashlib.sha256(whole).digest() != digest:
            return None
        at = len(MAGIC)
        before, after, count = _HEAD.unpack_from(whole, at)
        at += _HEAD.size
        pieces = []
        for _ in range(count):
            offset, length = _PIECE.unpack_from(whole, at)
            at += _PIECE.size
            pieces.append(Piece(offset, whole[at : at + length], whole[at + length : at + 2 * length]))
            at += 2 * length
        return cls(before, after, tuple(pieces))

    def belongs_to(self, file: BinaryIO) -> bool:
        """Whether every byte of the file is what it was or what it shall be."""
        if _length(file) < self.before:
            return False
        for piece in self.pieces:
            now, old, new = (np.frombuffer(b, np.uint8) for b in (_read(file, piece), piece.old, piece.new))
            if not ((now == old) | (now == new)).all():
                return False
        return True

    def carry_out(self, file: BinaryIO, fault: Fault = no_fault) -> None:
        """Put the pieces into the file, and both onto the disk."""
        for piece in self.pieces:
            fault(f"piece at {piece.offset}")
            file.seek(piece.offset)
            _write(file, piece.new)
        if _length(file) != self.after:
            fault("length")
            file.truncate(self.after)
        fault("sync")
        os.fsync(file.fileno())


class Overlay(io.RawIOBase):
    """A file as it would be with what was written to it, none of which has reached it. For h5py's file-like objects."""

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file = file
        self._before = self._length = _length(file)
        self._at = 0
        self._pages: dict[int, bytearray] = {}

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """What is cut off reads as zeros should the file grow again."""
        size = self._at if size is None else size
        if size < self._length:
            kept = -(-size // PAGE)
            for number in [number for number in self._pages if number >= kept]:
                del self._pages[number]
            if size % PAGE:
                page = self._page(size // PAGE)
                page[size % PAGE :] = bytes(PAGE - size % PAGE)
        self._length = size
        # Beyond this the file's own bytes are not looked at any more.
        self._before = min(self._before, size)
        return size

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._length - self._at))
        done = 0
        while done < count:
            number, start = divmod(self._at + done, PAGE)
            step = min(PAGE - start, count - done)
            page = self._pages.get(number)
            view[done : done + step] = (self._stored(number) if page is None else page)[start : start + step]
            done += step
        self._at += count
        return count

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            number, start = divmod(self._at + done, PAGE)
            step = min(PAGE - start, len(view) - done)
            self._page(number)[start : start + step] = view[done : done + step]
            done += step
        self._at += done
        self._length = max(self._length, self._at)
        return done

    def _page(self, number: int) -> bytearray:
        if number not in self._pages:
            self._pages[number] = bytearray(self._stored(number))
        return self._pages[number]

    def _stored(self, number: int) -> bytes:
        """A page of the file, zeros beyond its end."""
        self._file.seek(number * PAGE)
        wanted = max(0, min(PAGE, self._before - number * PAGE))
        return self._file.read(wanted).ljust(PAGE, b"\0") if wanted else bytes(PAGE)

    def commit(self, journal: Path, fault: Fault = no_fault) -> None:
        """Put it into the file by way of a journal.

        Raises:
            OSError: the disk is full, or worse. The file is as it was, or its journal is complete.
        """
        file, before = self._file, _length(self._file)
        pieces, grown = self._changed(before), self._length > before
        if not pieces and self._length == before:
            return
        journaled = Journal(before, self._length, pieces)
        try:
            if grown:
                fault("grow")
                self._grow(before, fault)
            fault("journal")
            with journal.open("xb", buffering=0) as out:
                raw = journaled.to_bytes()
                half = len(raw) // 2
                _write(out, raw[:half])
                fault("journal's end")
                _write(out, raw[half:])
                fault("journal's sync")
                os.fsync(out.fileno())
            fsync(journal.parent)
        except BaseException:
            journal.unlink(missing_ok=True)
            if grown:
                file.truncate(before)
            raise
        journaled.carry_out(file, fault)
        fault("done")
        journal.unlink()
        fault("gone")
        fsync(journal.parent)

    def _changed(self, before: int) -> tuple[Piece, ...]:
        """Pages within the file that are to be others."""
        file, pieces = self._file, []
        # What was cut off once and is there again is zero where nobody has written.
        again = range(self._before // PAGE, -(-min(before, self._length) // PAGE))
        for number in sorted({n for n in self._pages if n * PAGE < before} | set(again)):
            inside = min(PAGE, before - number * PAGE, max(0, self._length - number * PAGE))
            new = bytes(self._pages.get(number) or self._stored(number))[:inside]
            file.seek(number * PAGE)
            old = file.read(inside)
            if old != new:
                pieces.append(Piece(number * PAGE, old, new))
        return tuple(pieces)

    def _grow(self, before: int, fault: Fault) -> None:
        file = self._file
        file.truncate(self._length)
        for number in sorted(n for n in self._pages if (n + 1) * PAGE > before):
            start = max(number * PAGE, before)
            file.seek(start)
            _write(file, self._pages[number][start - number * PAGE : self._length - number * PAGE])
        fault("growth's sync")
        os.fsync(file.fileno())


def journal_of(path: Path) -> Path:
    """Where the journal of a run lies while there is one."""
    return path.with_name(path.name + SUFFIX)


def recover(path: Path) -> None:
    """Finish what was being done to a run when its program ended; nothing for all others.

    Raises:
        DatasetError: the journal is another file's, or the run cannot be written to.
    """
    journal = journal_of(path)
    if not journal.is_file() or not path.is_file():
        return
    try:
        with path.open("r+b", buffering=0) as file:
            _lock(file)
            # Whoever held the lock may have finished meanwhile.
            raw = journal.read_bytes() if journal.is_file() else b""
            found = Journal.from_bytes(raw)
            if found is not None and not found.belongs_to(file):
                raise DatasetError(
                    f"{journal}: results were being stored when a program ended, but not in this {path.name}; "
                    "put the file back that it belongs to, or delete the journal"
                )
            if found is not None:
                found.carry_out(file)
            journal.unlink(missing_ok=True)
    except BlockingIOError:
        raise DatasetError(f"{path}: another process is writing it; wait until it has ended") from None
    except OSError as error:
        raise DatasetError(
            f"{path}: results were being stored when a program ended, and that cannot be finished "
            f"({error.strerror or error}); make the file and its folder writable and open it again"
        ) from None


@contextmanager
def changing(path: Path, fault: Fault = no_fault) -> Iterator[h5py.File]:
    """A run to change in a `with` block; nothing reaches the file unless the block ends well.

    All that is written is held in memory until then.

    Raises:
        DatasetError: as `recover`.
        OSError: no such file, in use elsewhere, or the disk is full.
    """
    recover(path)
    with _held(path) as raw:
        overlay = Overlay(raw)
        with h5py.File(overlay, "r+") as file:
            yield file
        try:
            overlay.commit(journal_of(path), fault)
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Opening a run in this block waits for what this process is storing."""
    with _STORING:
        yield


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """The file, locked; who reads it in this process is waited for, as `open_for_writing` does."""
    end = time.monotonic() + PATIENCE_S
    while True:
        # HDF5 knows who in this process still reads it, also where files have no locks.
        open_for_writing(path).close()
        with _STORING, path.open("r+b", buffering=0) as raw:
            try:
                _lock(raw)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
            else:
                yield raw
                return
        time.sleep(LOOK_S)


def _lock(file: BinaryIO) -> None:
    """HDF5's own lock, where there are such; raises `BlockingIOError` while somebody has the file open."""
    try:
        import fcntl
    except ImportError:  # Windows: HDF5 locks nothing there either
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        # A file system without locks, which HDF5 then does without too.
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise


def _length(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _read(file: BinaryIO, piece: Piece) -> bytes:
    file.seek(piece.offset)
    return file.read(len(piece.old))


def _write(file: BinaryIO, data: bytes | bytearray) -> None:
    """All of it: an unbuffered file may take less."""
    view = memoryview(bytes(data))
    while view:
        view = view[file.write(view) :]
