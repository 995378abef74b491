"""Files that appear whole: a full disk or Ctrl-C leaves what was there, and nothing half-written beside it."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from recon.files import whole as module
from recon.files.whole import whole

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_replaced_once_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_an_error_inside_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with whole(path, keep=tmp_path / "b.txt") as part:
            part.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_only_when_it_writes_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def full(path):
        raise FULL

    monkeypatch.setattr(module, "fsync", full)
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"), whole(path, keep=tmp_path / "b.txt") as part:
        part.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_the_old_file_is_kept_under_another_name(tmp_path, monkeypatch, links):
    def refused(*_):
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path, kept = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("old")
    with whole(path, keep=kept) as part:
        part.write_text("new")
    assert (path.read_text(), kept.read_text()) == ("new", "old")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems have a umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_is_as_readable_as_any_other_even_when_its_writer_used_a_temporary_one(tmp_path, umask, mode):
    path = tmp_path / "a.txt"
    before = os.umask(umask)
    try:
        with whole(path) as part:
            handle, name = tempfile.mkstemp(dir=tmp_path)
            os.close(handle)
            Path(name).replace(part)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path]
