"""Image sources: IDX files, folders of pictures, and MNIST with its checksums, on and off line."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from recon.decoders import images as source
from recon.decoders.images import (
    ImageSourceError,
    LabelledImages,
    binary_strokes,
    ensure_mnist,
    fit_square,
    load_folder,
    load_idx_images,
    load_mnist,
    load_stack,
    read_idx,
)
from tests.decoders.shapes import discs, idx_bytes, write_idx


def _refused(call, *arguments, **options) -> str:
    with pytest.raises(ImageSourceError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- IDX ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("idx")


@given(
    array=st.sampled_from(["u1", "i1", ">i2", "<i4", "f4", "f8"]).flatmap(
        lambda kind: arrays.arrays(np.dtype(kind), arrays.array_shapes(min_dims=1, max_dims=4, max_side=5))
    ),
    zipped=st.booleans(),
)
def test_idx_round_trip(folder, array, zipped):
    path = write_idx(folder / ("a.gz" if zipped else "a"), array)
    back = read_idx(path)
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)


@given(cut=st.integers(0, 4 + 12 + 59))
def test_a_truncated_idx_file_is_refused_wherever_it_ends(folder, cut):
    path = folder / "cut"
    path.write_bytes(idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))[:cut])
    assert "cut" in _refused(read_idx, path)


@given(content=st.binary(max_size=64))
def test_bytes_that_are_not_idx_are_refused_or_read_but_never_crash(folder, content):
    path = folder / "any"
    path.write_bytes(content)
    try:
        read_idx(path)
    except ImageSourceError as error:
        assert "any" in str(error)  # noqa: PT017  (either outcome is right)


def test_foreign_long_missing_and_broken_idx_files_are_refused(tmp_path):
    good = idx_bytes(np.zeros((2, 3, 3), np.uint8))
    cases = {
        "png": (b"\x89PNG\r\n\x1a\n" + good, "not an IDX file (magic number 89504e47)"),
        "empty": (b"", "not an IDX file (magic number absent)"),
        "long": (good + b"\0", "holds 19 bytes of data"),
        "huge": (good[:4] + b"\xff" * 12, "needs"),
        "cut.gz": (gzip.compress(good)[:-9], "cannot be read"),
        "bent.gz": (gzip.compress(good)[:10] + b"\xff" * 20, "cannot be read"),
    }
    for name, (content, expected) in cases.items():
        (tmp_path / name).write_bytes(content)
        message = _refused(read_idx, tmp_path / name)
        assert expected in message
        assert name in message
    assert "absent" in _refused(read_idx, tmp_path / "absent")
    assert "cannot be read" in _refused(read_idx, tmp_path)


def test_idx_images_are_scaled_padded_and_labelled(tmp_path):
    stack = np.zeros((3, 28, 28), np.uint8)
    stack[:, 0, 0] = [0, 51, 255]
    labelled = load_idx_images(
        write_idx(tmp_path / "images.gz", stack), write_idx(tmp_path / "labels", np.array([4, 1, 4], np.uint8)), 32
    )
    assert labelled.images.shape == (3, 32, 32)
    assert labelled.images.dtype == np.float32
    assert labelled.images[:, 2, 2].tolist() == pytest.approx([0, 0.2, 1])
    assert labelled.images.sum() == pytest.approx(1.2)
    fours = labelled.only(4)
    assert fours.labels.tolist() == [4, 4]
    assert "label 4" in fours.source
    assert "labels present: 1, 4" in _refused(labelled.only, 7)


def test_idx_files_that_do_not_fit_together_are_refused(tmp_path):
    images = write_idx(tmp_path / "images", np.zeros((3, 8, 8), np.uint8))
    assert "(2,) labels for 3 images" in _refused(
        load_idx_images, images, write_idx(tmp_path / "labels", np.zeros(2, np.uint8)), 16
    )
    assert "holds 1 dimensions" in _refused(load_idx_images, tmp_path / "labels", None, 16)
    assert "holds no image" in _refused(
        load_idx_images, write_idx(tmp_path / "none", np.zeros((0, 8, 8), np.uint8)), None, 16
    )
    for wrong in (np.full((1, 8, 8), 2, np.float32), np.full((1, 8, 8), -1, np.int8), np.full((1, 8, 8), np.nan)):
        assert "values leave 0 .. 1" in _refused(load_idx_images, write_idx(tmp_path / "odd", wrong), None, 16)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_a_fitted_square_keeps_ink_and_centre(rows, columns):
    square = fit_square(np.ones((rows, columns)), 16)
    assert square.shape == (16, 16)
    assert 0 <= square.min() <= square.max() <= 1 + 1e-6
    scale = min(1, 16 / max(rows, columns))
    assert square.sum() == pytest.approx(max(1, round(rows * scale)) * max(1, round(columns * scale)), rel=1e-5)
    for axis in (0, 1):
        centre = (np.arange(16) * square.sum(1 - axis)).sum() / square.sum()
        assert abs(centre - 7.5) <= 0.5 + 1e-4


# ---- Folders of pictures ------------------------------------------------------------------------------------------


def _pictures(folder: Path) -> None:
    for letter, level in (("alpha", 255), ("beta", 102)):
        (folder / letter).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((10, 6), level, np.uint8)).save(folder / letter / f"{number}.png")


def test_grey_discs_become_binary_ones_of_the_same_area_and_place():
    grey = discs(6, 32, 5)
    binary = binary_strokes(grey, 64)
    assert binary.shape == (6, 64, 64)
    assert binary.dtype == np.float32
    soft = (binary > 0) & (binary < 1)
    for image, drawn, edge in zip(grey, binary, soft, strict=True):
        area = image.sum()
        assert drawn.sum() / 4 == pytest.approx(area, rel=0.01)
        circumference = 2 * np.sqrt(np.pi * area) * 2
        assert edge.sum() < 2 * circumference  # an edge is a pixel wide, not a blur
        for axis in (0, 1):
            centre = (image.sum(1 - axis) * (np.arange(32) + 0.5)).sum() / area
            drawn_centre = (drawn.sum(1 - axis) * (np.arange(64) + 0.5)).sum() / drawn.sum()
            assert drawn_centre / 2 == pytest.approx(centre, abs=0.05)


def test_redrawn_images_keep_their_labels_and_say_so():
    redrawn = LabelledImages(discs(2, 16, 1), np.array([3, 4]), "discs").as_strokes(32)
    assert redrawn.images.shape == (2, 32, 32)
    assert list(redrawn.labels) == [3, 4]
    assert redrawn.source == "discs, redrawn in binary"


def test_stacks_that_numpy_wrote_are_images(tmp_path):
    images = (255 * discs(6, 12, 4)).astype(np.uint8)
    np.savez(tmp_path / "letters.npz", images)
    np.save(tmp_path / "marks.npy", np.arange(6) % 3)
    loaded = load_stack(tmp_path / "letters.npz", tmp_path / "marks.npy", 16)
    assert loaded.images.shape == (6, 16, 16)
    np.testing.assert_allclose(loaded.images[:, 2:14, 2:14], images / 255, atol=1e-6)
    assert loaded.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert loaded.source == "letters.npz"
    np.savez(tmp_path / "both.npz", images=images, labels=np.ones(6, np.int64))
    both = load_stack(tmp_path / "both.npz", tmp_path / "both.npz", 16)
    assert both.labels.tolist() == [1] * 6
    assert load_stack(tmp_path / "both.npz", None, 16).labels.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("array", "labels", "message"),
    [
        (np.zeros((3, 4), np.uint8), None, r"holds uint8 \(3, 4\), images need"),
        (np.full((2, 4, 4), 3.0), None, "values leave 0 .. 1"),
        (np.zeros((0, 4, 4)), None, "images need"),
        (np.zeros((2, 4, 4)), np.zeros(3, np.int64), r"int64 labels \(3,\) for 2 images"),
        (np.array([{}]), None, "cannot be read as a stack"),
    ],
)
def test_stacks_that_are_no_images_are_refused(tmp_path, array, labels, message):
    np.save(tmp_path / "stack.npy", array, allow_pickle=True)
    marks = None
    if labels is not None:
        marks = tmp_path / "marks.npy"
        np.save(marks, labels)
    with pytest.raises(ImageSourceError, match=message):
        load_stack(tmp_path / "stack.npy", marks, 16)


def test_a_folder_of_pictures_takes_its_labels_from_its_sub_folders(tmp_path):
    _pictures(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    loaded = load_folder(tmp_path, 16)
    assert loaded.images.shape == (4, 16, 16)
    assert loaded.labels.tolist() == [0, 0, 1, 1]
    assert loaded.images[:, 8, 8].tolist() == pytest.approx([1, 1, 0.4, 0.4])
    assert loaded.images[:, 0, 0].tolist() == [0, 0, 0, 0]
    assert load_folder(tmp_path, 16, dark_ink=True).images[:, 8, 8].tolist() == pytest.approx([0, 0, 0.6, 0.6])
    assert load_folder(tmp_path / "alpha", 16).labels.tolist() == [0, 0]


def test_a_folder_without_pictures_or_with_a_broken_one_is_refused(tmp_path):
    assert "no pictures found" in _refused(load_folder, tmp_path, 16)
    assert "no pictures found" in _refused(load_folder, tmp_path / "absent", 16)
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    assert "broken.png: not a readable picture" in _refused(load_folder, tmp_path, 16)


# ---- MNIST --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A stand-in for MNIST: 20 self-made test digits behind a server, an empty cache, and their own checksums."""
    published = tmp_path / "published"
    published.mkdir()
    stack = (discs(20, 28, 5) * 255).astype(np.uint8)
    write_idx(published / "t10k-images-idx3-ubyte.gz", stack)
    write_idx(published / "t10k-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    sums = {p.name: hashlib.md5(p.read_bytes(), usedforsecurity=False).hexdigest() for p in published.iterdir()}
    monkeypatch.setattr(source, "MNIST_FILES", sums)
    monkeypatch.delenv("PTYCHOSCOPE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(published))

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(source, "MNIST_MIRROR", f"http://127.0.0.1:{server.server_address[1]}/")
        yield asked
        server.shutdown()
        thread.join()


def test_mnist_is_fetched_once_and_kept(mirror, tmp_path):
    first = load_mnist("test")
    assert first.images.shape == (20, 32, 32)
    assert first.source == "MNIST test set"
    assert len(mirror) == 2
    second = load_mnist("test")
    assert len(mirror) == 2
    np.testing.assert_array_equal(first.images, second.images)
    kept = sorted(p.name for p in (tmp_path / "cache" / "ptychoscope" / "mnist").iterdir())
    assert kept == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def test_what_was_fetched_wrong_is_not_kept(mirror, tmp_path, monkeypatch):
    name = "t10k-images-idx3-ubyte.gz"
    monkeypatch.setitem(source.MNIST_FILES, name, "0" * 32)
    message = _refused(ensure_mnist, name)
    assert "checksum" in message
    assert "is not the published 00000000" in message
    assert not (tmp_path / "cache" / "ptychoscope" / "mnist" / name).exists()


def test_a_kept_file_that_changed_is_refused_and_left_alone(mirror, tmp_path):
    path = ensure_mnist("t10k-images-idx3-ubyte.gz")
    path.write_bytes(b"changed")
    message = _refused(load_mnist, "test")
    assert "checksum" in message
    assert "delete it" in message
    assert path.read_bytes() == b"changed"


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("PTYCHOSCOPE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(source, "MNIST_MIRROR", "http://127.0.0.1:9/")  # nobody listens at the discard port
    message = _refused(load_mnist, "train")
    assert "go online once" in message
    assert "PTYCHOSCOPE_DATA" in message
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_real_mnist_when_it_is_there(shared_data, monkeypatch):
    if not (shared_data / "mnist").is_dir():
        pytest.skip("no mnist folder in PTYCHOSCOPE_DATA")
    monkeypatch.setenv("PTYCHOSCOPE_DATA", str(shared_data))
    digits = load_mnist("test")
    assert isinstance(digits, LabelledImages)
    assert digits.images.shape == (10_000, 32, 32)
    assert len(digits.only(4).images) == 982
    assert (digits.images.min(), digits.images.max()) == (0, 1)


def test_images_that_memory_cannot_hold_are_refused_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "available_memory", lambda: 3_000_000_000)
    path = tmp_path / "stack.npy"
    np.save(path, np.zeros((300, 4, 4), np.uint8))
    message = r"stack.npy: 300 images of 1024 x 1024 pixels take 5.03 GB, 3 GB are free; choose smaller images"
    with pytest.raises(ImageSourceError, match=message):
        source.load_stack(path, None, 1024)
    assert source.load_stack(path, None, 16).images.shape == (300, 16, 16)
    with pytest.raises(ImageSourceError, match="300 images of 1024 x 1024 pixels"):
        source.load_stack(path, None, 16).as_strokes(1024)
