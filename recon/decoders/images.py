"""Images to train on: IDX files, folders of pictures, and MNIST fetched once with its checksums."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import struct
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.decoders.pairs import paired
from recon.files.arrays import UNREADABLE, why_unreadable
from recon.files.whole import whole
from recon.streaming import available_memory

IDX_TYPES = {0x08: np.uint8, 0x09: np.int8, 0x0B: np.int16, 0x0C: np.int32, 0x0D: np.float32, 0x0E: np.float64}
PICTURE_SUFFIXES = {".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".gif"}

# The files as published by LeCun, Cortes & Burges; the checksums are those of the publication.
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
COPIES = 4
"""Of all images: as they are read, as they are fitted, and what training makes of them."""
SURE_BYTES = 2e9
"""Memory that is taken without asking whether there is as much."""
MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class ImageSourceError(Exception):
    """An image source is missing, broken or empty; the message names the file and the remedy."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with their class labels.

    Attributes:
        images: (n, size, size) float32, 0 = background (opaque on the bench), 1 = ink (transmitting); with a phase
            beside it (n, 2, size, size).
        labels: (n,) int64, or all zero where the source has none.
        source: where they came from, for the training record.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    source: str

    def as_strokes(self, size: int) -> LabelledImages:
        """The images redrawn as binary strokes, (n, size, size); see `binary_strokes`."""
        require_room(len(self.images), size, self.source)
        return LabelledImages(binary_strokes(self.images, size), self.labels, f"{self.source}, redrawn in binary")

    def as_pairs(self) -> LabelledImages:
        """Amplitude and phase made from each image, (n, 2, size, size); see `recon.decoders.pairs`."""
        return LabelledImages(paired(self.images), self.labels, f"{self.source}, with its relief as phase")

    def only(self, label: int) -> LabelledImages:
        """The images of one class; raises `ImageSourceError` when there are none."""
        keep = self.labels == label
        if not keep.any():
            present = ", ".join(str(v) for v in np.unique(self.labels))
            raise ImageSourceError(f"{self.source}: no image has label {label}; labels present: {present}")
        return LabelledImages(self.images[keep], self.labels[keep], f"{self.source}, label {label}")


def read_idx(path: Path) -> NDArray:
    """The array in an IDX file, gzipped or not (http://yann.lecun.com/exdb/mnist/).

    Raises:
        ImageSourceError: the file is missing, not IDX, or shorter than its header says.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageSourceError(f"{path}: cannot be read ({error})") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_TYPES or not 1 <= raw[3] <= 4:
        raise ImageSourceError(f"{path}: not an IDX file (magic number {raw[:4].hex() or 'absent'})")
    rank = raw[3]
    header = 4 + 4 * rank
    if len(raw) < header:
        raise ImageSourceError(f"{path}: IDX header is truncated at {len(raw)} of {header} bytes")
    shape = struct.unpack(f">{rank}I", raw[4:header])
    dtype = np.dtype(IDX_TYPES[raw[2]]).newbyteorder(">")
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) - header != expected:
        raise ImageSourceError(f"{path}: holds {len(raw) - header} bytes of data, its header {shape} needs {expected}")
    return np.frombuffer(raw, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def fit_square(image: NDArray, size: int) -> NDArray[np.float32]:
    """A grey image in 0..1 centred in a size x size square: padded when smaller, area-averaged when larger."""
    image = np.asarray(image, np.float32)
    longest = max(image.shape)
    if longest > size:
        from PIL import Image

        shape = tuple(max(1, round(n * size / longest)) for n in image.shape)
        resized = Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BOX)
        image = np.asarray(resized, np.float32)
    rows, columns = image.shape
    square = np.zeros((size, size), np.float32)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = image
    return square


def spline_matrix(old: int, new: int) -> NDArray[np.float32]:
    """(new, old) cubic spline interpolation of a row of pixels to a finer grid over the same width, zero outside.

    Splines are linear in the values, so one matrix draws every image along one axis. Half-pixel centres.
    """
    from scipy.ndimage import map_coordinates

    centres = (np.arange(new) + 0.5) * old / new - 0.5
    rows = [map_coordinates(row, [centres], order=3, mode="grid-constant") for row in np.eye(old)]
    return np.stack(rows, axis=1).astype(np.float32)


def binary_strokes(
    images: NDArray[np.float32], size: int, threshold: float = 0.5, oversampling: int = 4
) -> NDArray[np.float32]:
    """Grey images (n, s, s) redrawn as binary strokes on a finer grid: (n, size, size) in 0..1, edges a pixel soft.

    The grey values of a scan say where between its pixels an edge runs. Cubic splines carry them to `oversampling`
    times the wanted grid, a threshold finds the edge there, and the mean over each wanted pixel keeps it: a photomask.
    """
    axis = spline_matrix(images.shape[-1], size * oversampling)
    strokes = np.empty((len(images), size, size), np.float32)
    for index, image in enumerate(images):
        inked = (axis @ image @ axis.T) > threshold
        strokes[index] = inked.reshape(size, oversampling, size, oversampling).mean((1, 3), dtype=np.float32)
    return strokes


def _scaled(images: NDArray) -> NDArray[np.float32]:
    if np.issubdtype(images.dtype, np.integer):
        return (images / np.float32(np.iinfo(images.dtype).max)).astype(np.float32)
    return images.astype(np.float32)


def _in_range(images: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1)


def require_room(count: int, size: int, source: Path | str) -> None:
    """Raise `ImageSourceError` where so many images of size x size pixels do not fit into the memory that is free."""
    needed = COPIES * 4 * count * size**2
    if needed > SURE_BYTES and needed > (free := available_memory()):
        raise ImageSourceError(
            f"{source}: {count} images of {size} x {size} pixels take {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB "
            "are free; choose smaller images (--image-size), or fewer"
        )


def _fitted(images: NDArray[np.float32], size: int, source: Path) -> NDArray[np.float32]:
    require_room(len(images), size, source)
    return np.stack([fit_square(image, size) for image in images])


def load_idx_images(images: Path, labels: Path | None, size: int) -> LabelledImages:
    """An IDX image file (n, rows, columns) and its label file (n,), fitted into size x size squares.

    Raises:
        ImageSourceError: not IDX, not images, empty, values outside 0 .. 1, or another number of labels.
    """
    stack = read_idx(images)
    if stack.ndim != 3:
        raise ImageSourceError(f"{images}: holds {stack.ndim} dimensions, images need 3 (count, rows, columns)")
    if stack.size == 0:
        raise ImageSourceError(f"{images}: holds no image (shape {stack.shape})")
    scaled = _scaled(stack)
    if not _in_range(scaled):
        raise ImageSourceError(f"{images}: values leave 0 .. 1 (integers count as fractions of their largest value)")
    marks = np.zeros(len(stack), np.int64) if labels is None else read_idx(labels).astype(np.int64)
    if marks.shape != (len(stack),):
        raise ImageSourceError(f"{labels}: {marks.shape} labels for {len(stack)} images in {images}")
    return LabelledImages(_fitted(scaled, size, images), marks, images.name)


def load_stack(images: Path, labels: Path | None, size: int) -> LabelledImages:
    """Images (n, rows, columns) and labels (n,) in .npy or .npz files, fitted into size x size squares.

    An .npz holds one array, or one of several that is called `images` (`labels`).

    Raises:
        ImageSourceError: unreadable, not images, empty, values outside 0 .. 1, or another number of labels.
    """
    stack = _array(images, "images")
    if stack.ndim != 3 or stack.size == 0 or stack.dtype.kind not in "biuf":
        raise ImageSourceError(f"{images}: holds {stack.dtype} {stack.shape}, images need (count, rows, columns)")
    scaled = _scaled(stack)
    if not _in_range(scaled):
        raise ImageSourceError(f"{images}: values leave 0 .. 1 (integers count as fractions of their largest value)")
    marks = np.zeros(len(stack), np.int64) if labels is None else _array(labels, "labels")
    if marks.shape != (len(stack),) or marks.dtype.kind not in "iu":
        raise ImageSourceError(f"{labels}: {marks.dtype} labels {marks.shape} for {len(stack)} images in {images}")
    return LabelledImages(_fitted(scaled, size, images), marks.astype(np.int64), images.name)


def _array(path: Path, name: str) -> NDArray:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            held = list(loaded.files)
            if len(held) != 1 and name not in held:
                raise ValueError(f"holds {', '.join(held) or 'nothing'}; call the array `{name}`, or keep it alone")
            return np.asarray(loaded[name if name in held else held[0]])
    except UNREADABLE as error:
        raise ImageSourceError(
            f"{path}: cannot be read as a stack ({why_unreadable(error)}); give what numpy.save or numpy.savez wrote"
        ) from None


def load_folder(folder: Path, size: int, *, dark_ink: bool = False) -> LabelledImages:
    """A folder of pictures, one sub-folder a class (or none); labels number the sub-folders in name order.

    Bright is ink unless `dark_ink`. Raises `ImageSourceError` when there is no picture or one cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise ImageSourceError(f"{folder}: no pictures found; supported: {', '.join(sorted(PICTURE_SUFFIXES))}")
    classes = {name: k for k, name in enumerate(sorted({p.parent.relative_to(folder).as_posix() for p in files}))}
    require_room(len(files), size, folder)
    images = []
    for path in files:
        try:
            with Image.open(path) as picture:
                grey = np.asarray(picture.convert("L"), np.float32) / 255.0
        except (OSError, UnidentifiedImageError) as error:
            raise ImageSourceError(f"{path}: not a readable picture ({error})") from None
        images.append(fit_square(1.0 - grey if dark_ink else grey, size))
    labels = np.array([classes[p.parent.relative_to(folder).as_posix()] for p in files], np.int64)
    return LabelledImages(np.stack(images), labels, folder.name)


def mnist_folder() -> Path:
    """Where MNIST is looked for and kept: $PTYCHOSCOPE_DATA/mnist, else the user's cache."""
    shared = os.environ.get("PTYCHOSCOPE_DATA")
    if shared and (Path(shared) / "mnist").is_dir():
        return Path(shared) / "mnist"
    base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    return Path(base) / "ptychoscope" / "mnist"


def ensure_mnist(name: str) -> Path:
    """The path of one published MNIST file, fetched when it is not there; its checksum is always verified."""
    path = mnist_folder() / name
    if not path.exists():
        try:
            with urllib.request.urlopen(MNIST_MIRROR + name, timeout=30) as response:
                fetched = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ImageSourceError(
                f"MNIST file {name}: not in {path.parent} and not to be fetched from {MNIST_MIRROR} ({error}); "
                "set PTYCHOSCOPE_DATA to a folder that holds mnist/, or go online once"
            ) from None
        _verify(MNIST_MIRROR + name, name, fetched, "try again later")
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_bytes(fetched)
    else:
        _verify(str(path), name, path.read_bytes(), "delete it to fetch it again")
    return path


def _verify(where: str, name: str, content: bytes, remedy: str) -> None:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != MNIST_FILES[name]:
        raise ImageSourceError(f"{where}: checksum {digest} is not the published {MNIST_FILES[name]}; {remedy}")


def load_mnist(part: str, size: int = 32) -> LabelledImages:
    """MNIST's "train" (60,000) or "test" (10,000) digits, zero-padded to size x size."""
    prefix = {"train": "train", "test": "t10k"}[part]
    images = ensure_mnist(f"{prefix}-images-idx3-ubyte.gz")
    labels = ensure_mnist(f"{prefix}-labels-idx1-ubyte.gz")
    loaded = load_idx_images(images, labels, size)
    return LabelledImages(loaded.images, loaded.labels, f"MNIST {part} set")
