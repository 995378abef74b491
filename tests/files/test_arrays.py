"""Files that numpy cannot read are told in words that help, and nobody is advised to unpickle them."""

import bz2
import zipfile

import numpy as np
import pytest

from recon.dataset import DatasetError
from recon.files.arrays import UNREADABLE, why_unreadable
from recon.files.imports import read_any, read_probe


def damaged(path):
    """A compressed archive with a hole."""
    np.savez_compressed(path, frames=np.random.default_rng(1).normal(size=(40, 40)))
    raw = bytearray(path.read_bytes())
    raw[400:600] = bytes(200)
    path.write_bytes(raw)


def single(path):
    """An array without an archive around it."""
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


CONTENTS = {
    "text": lambda path: path.write_text("some text"),
    "single": single,
    "empty": lambda path: path.write_bytes(b""),
    "objects": lambda path: np.savez(path, frames=np.array([{}], object)),
    "cut": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)),
    "damaged": damaged,
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("reader", [read_any, read_probe])
def test_what_is_no_archive_of_arrays_is_one_line_with_its_name(tmp_path, reader, content):
    path = tmp_path / "some.npz"
    CONTENTS[content](path)
    with pytest.raises(DatasetError) as error:
        reader(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert "allow_pickle" not in message


def test_a_packed_archive_that_is_none_is_one_line(tmp_path):
    path = tmp_path / "some.npz.bz2"
    path.write_bytes(bz2.compress(b"some text"))
    with pytest.raises(DatasetError, match="not a readable npz file"):
        read_any(path)


@pytest.mark.parametrize("error", [zipfile.BadZipFile("bad"), EOFError("No data left in file"), OSError(2, "gone")])
def test_every_reason_has_words(error):
    assert isinstance(error, UNREADABLE)
    assert why_unreadable(error) in ("bad", "it is empty", "gone")
