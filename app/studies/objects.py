"""What a study looks at: grey images from a stack, a folder or MNIST, as grey truths or as masks, in a pose."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from app.errors import UsageError
from app.studies.scene import FIELD_M, SCORED, StudyScene
from recon.files.arrays import UNREADABLE, why_unreadable

MNIST = "mnist:test"
PICTURE_SIDE = 128
"""Pixels each way at which pictures of a folder are kept: enough for a mask's edges."""
OVERSAMPLING = 4
"""A mask's grid over the object's, each way."""
POSE_SIGMAS = (50e-6, 50e-6, float(np.radians(10)), 0.1)
"""Of shift y, x in metres, rotation, and logarithm of the size (physics, section 6)."""
FLUX_SIGMA = 0.03


@dataclass(frozen=True)
class StudyObject:
    """One image to recover.

    Attributes:
        name: "mnist:test:17", or the file and its number.
        image: (s, s) float32 in 0..1, 1 transmits; s a multiple of 32.
        label: its class; None where it is not known.
    """

    name: str
    image: NDArray[np.float32]
    label: int | None = None

    @property
    def digest(self) -> str:
        """Twelve hex digits of the image."""
        return hashlib.sha256(np.ascontiguousarray(self.image).tobytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Pose:
    """Where an object lies and how bright the light was.

    Attributes:
        values: (4,) shift y, x in metres, rotation, logarithm of the size.
        flux: light over the calibrated one.
    """

    values: NDArray[np.float64]
    flux: float

    @classmethod
    def nominal(cls) -> Pose:
        """Where the decoder draws it."""
        return cls(np.zeros(4), 1.0)

    @classmethod
    def random(cls, seed: list[int]) -> Pose:
        """A draw from the priors."""
        rng = np.random.default_rng(seed)
        return cls(rng.normal(size=4) * POSE_SIGMAS, float(np.exp(FLUX_SIGMA * rng.normal())))


def load_objects(source: str, count: int | None) -> list[StudyObject]:
    """The first `count` objects of `mnist:test`, a stack (.npy, .npz) or a folder of images.

    Raises:
        UsageError: one line: missing, unreadable, of another shape, out of range, or too few.
    """
    path = Path(source)
    if source == MNIST:
        from recon.decoders.images import load_mnist

        digits = load_mnist("test", SCORED)
        found = [
            StudyObject(f"{MNIST}:{k}", image, int(label))
            for k, (image, label) in enumerate(zip(digits.images[:count], digits.labels[:count], strict=True))
        ]
    elif path.is_dir():
        from recon.decoders.images import load_folder

        pictures = load_folder(path, PICTURE_SIDE)
        labels = pictures.labels if len(set(pictures.labels.tolist())) > 1 else [None] * len(pictures.images)
        found = [
            StudyObject(f"{path.name}:{k}", image, None if label is None else int(label))
            for k, (image, label) in enumerate(zip(pictures.images[:count], labels[:count], strict=True))
        ]
    elif path.suffix in (".npy", ".npz"):
        found = [StudyObject(f"{path.name}:{k}", image) for k, image in enumerate(_stack(path)[:count])]
    else:
        raise UsageError(f"objects {source!r}: neither {MNIST}, a .npy or .npz stack, nor a folder of images")
    if count is not None and len(found) < count:
        raise UsageError(f"objects {source!r}: holds {len(found)} images, --count asks for {count}; lower it")
    return found


def load_object(source: str, index: int) -> StudyObject:
    """The one of `load_objects` with that number, from 0.

    Raises:
        UsageError: one line: as `load_objects`, or there are not as many.
    """
    found = load_objects(source, None)
    if index >= len(found):
        raise UsageError(f"--index {index}: {source} holds images 0 .. {len(found) - 1}; choose one of them")
    return found[index]


def _stack(path: Path) -> NDArray[np.float32]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if path.suffix == ".npz":
                names = list(loaded.files)
                if len(names) != 1 and "images" not in names:
                    have = ", ".join(names) or "nothing"
                    raise UsageError(f"objects {path}: holds {have}; name the stack `images`, or hold it alone")
                loaded = loaded["images" if "images" in names else names[0]]
    except UNREADABLE as error:
        raise UsageError(
            f"objects {path}: cannot be read ({why_unreadable(error)}); give a .npy or .npz stack"
        ) from None
    if not isinstance(loaded, np.ndarray) or loaded.ndim != 3 or loaded.shape[1:] != (SCORED, SCORED):
        raise UsageError(f"objects {path}: shape {np.shape(loaded)} is not (N, {SCORED}, {SCORED}); resize the images")
    if len(loaded) == 0:
        raise UsageError(f"objects {path}: holds no image (shape {loaded.shape})")
    if not (np.issubdtype(loaded.dtype, np.floating) or loaded.dtype == bool):
        raise UsageError(f"objects {path}: holds {loaded.dtype}, needs floats in 0..1; divide by the largest value")
    images = loaded.astype(np.float32)
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        reach = f"{images.min():.3g} to {images.max():.3g}"
        raise UsageError(f"objects {path}: values from {reach} leave 0..1; rescale them")
    return images


@dataclass(frozen=True)
class Truth:
    """An object in its pose, on both grids that scores are taken on.

    Attributes:
        amplitude: (M, M) float32 on the scene's object grid.
        small: (32, 32) float32.
    """

    amplitude: NDArray[np.float32]
    small: NDArray[np.float32]


def make_truth(obj: StudyObject, kind: str, pose: Pose, scene: StudyScene) -> Truth:
    """`matched`: the grey image through the decoder's own resize; `mask`: binary, soft edges, drawn 4 times finer."""
    if kind == "matched":
        small = _small(obj.image)
        if pose.values.any():
            from recon.simulated import posed

            small = posed(small, pose.values, FIELD_M)
        return Truth(drawn_on(small, scene), small)
    amplitude = mask_amplitude(obj.image, pose, scene)
    return Truth(amplitude, scene.scored(amplitude))


def _small(image: NDArray[np.float32]) -> NDArray[np.float32]:
    step = len(image) // SCORED
    small: NDArray[np.float32] = image.reshape(SCORED, step, SCORED, step).mean((1, 3), dtype=np.float32)
    return small


def drawn_on(image: NDArray[np.float32], scene: StudyScene) -> NDArray[np.float32]:
    """(M, M) an image (s, s) on the scene's object grid, by the Mitchell-Netravali resize of decoders."""
    from recon.objects import resize_matrix

    resize = resize_matrix(scene.size, scene.pixel_m, FIELD_M, len(image)).numpy()
    drawn: NDArray[np.float32] = resize @ image @ resize.T
    return drawn


def mask_amplitude(image: NDArray[np.float32], pose: Pose, scene: StudyScene) -> NDArray[np.float32]:
    """(M, M) a photomask: where a cubic spline through the image exceeds 0.5 on a grid 4 times finer, averaged."""
    fine = scene.size * OVERSAMPLING
    axis = ((np.arange(fine) + 0.5) / OVERSAMPLING - 0.5 - scene.size // 2) * scene.pixel_m
    dy, dx, angle, grown = pose.values
    y, x = axis[:, None] - dy, axis[None, :] - dx
    shrink, cos, sin = np.exp(-grown), np.cos(angle), np.sin(angle)
    source_x, source_y = shrink * (cos * x + sin * y), shrink * (cos * y - sin * x)
    pitch = FIELD_M / len(image)
    rows, columns = ((values + FIELD_M / 2) / pitch - 0.5 for values in (source_y, source_x))
    grey = map_coordinates(image, [rows, columns], order=3, mode="grid-constant", output=np.float32)
    shape = (scene.size, OVERSAMPLING, scene.size, OVERSAMPLING)
    amplitude: NDArray[np.float32] = (grey > 0.5).reshape(shape).mean((1, 3), dtype=np.float32)
    return amplitude
