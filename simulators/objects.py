"""What lies on the simulated sample: digits drawn by the project itself, pictures, arrays; opaque field around them.

A drawing is a set of pen strokes in continuous coordinates, so that it can be rendered on any grid at any position.
Coordinates are (y, x), y downwards, in units of the drawing's height, with the ink's centre of mass at the origin as in
MNIST. Transmission is an amplitude: ink lets the light through (1), the ground is opaque (0).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy.interpolate import CubicSpline

RENDER_OVERSAMPLING = 4
TEXTURE_PIXEL_M = 1.725e-6
"""Pitch of a rendered drawing: half of the finest field pixel of the shipped profiles."""


class SampleError(Exception):
    """A sample cannot be made; the message names the file or value and the remedy."""


# ---- Handwriting --------------------------------------------------------------------------------------------------

# Letter forms: strokes separated by a slash, each a list of control points x,y in hundredths of the height, y down.
# A spline runs through the points of a stroke; a corner is where one stroke ends and the next begins.
_GLYPHS: dict[int, tuple[str, ...]] = {
    0: (
        "40,1 18,12 4,45 8,80 28,99 50,86 62,52 56,16 38,0",
        "36,2 20,20 10,55 16,90 33,98 47,75 52,38 45,8 34,0",
        "46,6 28,2 7,22 1,55 12,90 36,100 62,82 70,46 60,14 40,3",
    ),
    1: (
        "30,0 30,35 29,70 29,100",
        "16,20 25,12 33,0 / 33,0 32,50 31,100",
        "12,22 24,13 33,0 / 33,0 32,50 32,98 / 10,99 32,98 54,97",
        "34,0 30,40 30,80 33,100",
    ),
    2: (
        "6,22 18,5 38,0 56,12 56,34 40,62 20,84 3,98 / 3,98 32,95 66,97",
        "10,20 26,3 48,6 54,30 40,62 20,90 6,95 3,82 16,76 34,88 52,98 70,92",
        "4,16 22,2 46,3 57,20 48,46 28,72 6,95 / 6,95 24,88 44,93 68,99",
    ),
    3: (
        "8,14 26,0 50,5 54,24 40,40 22,46 / 22,46 46,50 60,68 52,90 28,100 2,90",
        "6,4 30,3 54,2 / 54,2 40,22 24,40 / 24,40 48,46 58,66 48,90 24,100 2,92",
        "6,10 30,0 52,10 46,34 24,46 / 24,46 50,52 56,78 36,98 4,94",
    ),
    4: (
        "10,2 5,26 7,48 26,54 57,46 / 57,4 57,46 53,100",
        "44,0 24,30 2,62 / 2,62 32,62 68,58 / 46,26 45,62 43,100",
        "14,6 6,34 12,52 34,50 55,34 / 59,0 55,34 52,100",
        "12,0 8,24 4,46 / 4,46 28,47 62,44 / 52,8 50,45 46,100",
    ),
    5: (
        "62,0 42,3 20,3 / 20,3 15,22 10,42 / 10,42 30,36 50,47 54,72 38,95 16,99 0,90",
        "64,2 46,0 28,6 18,22 20,38 38,50 48,68 40,90 20,99 2,93",
        "58,2 36,2 16,5 / 16,5 14,22 13,40 / 13,40 36,38 54,54 52,80 30,98 4,96",
    ),
    6: (
        "46,0 26,18 10,46 6,76 20,97 42,94 54,76 44,58 24,62 9,80",
        "30,0 16,26 6,56 8,86 26,100 46,90 50,70 36,56 18,64 9,82",
        "56,2 34,12 14,38 4,70 16,96 42,98 60,80 50,60 28,60 10,78",
    ),
    7: (
        "3,7 30,5 60,2 / 60,2 46,34 32,68 24,100",
        "3,10 30,4 60,2 / 60,2 44,40 30,74 24,100 / 18,52 38,51 58,47",
        "4,22 6,12 8,5 / 8,5 32,6 58,3 / 58,3 50,30 42,64 40,100",
        "2,10 18,2 38,6 56,6 56,22 40,56 30,100",
    ),
    8: (
        "56,14 40,1 18,4 10,20 24,40 44,58 50,80 34,99 12,94 8,74 26,52 48,34 58,16 50,6",
        "34,46 14,32 14,10 34,0 54,10 54,30 34,46 10,64 8,88 30,100 54,88 54,64 34,46",
        "50,8 30,2 14,16 24,38 42,54 44,82 26,99 10,84 20,58 40,38 52,18 48,6",
    ),
    9: (
        "52,16 36,0 12,10 5,32 20,46 40,38 52,16 / 52,16 51,55 44,100",
        "50,18 36,1 12,8 6,30 22,44 42,36 50,18 / 50,18 55,50 46,84 26,99 8,92",
        "54,6 30,2 10,20 12,42 34,44 53,24 57,6 50,50 38,100",
    ),
}


@dataclass(frozen=True)
class Stroke:
    """One line of the pen.

    Attributes:
        points: (n, 2) float64 polyline, (y, x) in units of the drawing's height.
    """

    points: NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """Strokes of a round pen; their bounding box, pen included, is 1 high, their centre of mass is the origin.

    Attributes:
        digit: which digit it shows.
        strokes: the lines.
        pen_width: of the round pen, in units of the height.
    """

    digit: int
    strokes: tuple[Stroke, ...]
    pen_width: float

    def bounds(self) -> tuple[float, float, float, float]:
        """(top, bottom, left, right) of the ink, in units of the height."""
        points = np.concatenate([stroke.points for stroke in self.strokes])
        (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
        half = self.pen_width / 2
        return float(top - half), float(bottom + half), float(left - half), float(right + half)


def draw_digit(digit: int, seed: int) -> Drawing:
    """A handwritten digit: one of several letter forms, bent, slanted, stretched and drawn with some pen.

    The same (digit, seed) is the same drawing; different seeds are different hands.

    Raises:
        SampleError: no such digit, or a negative seed.
    """
    if digit not in _GLYPHS or seed < 0:
        raise SampleError(f"digit {digit}, seed {seed}: the project draws digits 0 to 9 with seeds from 0")
    rng = np.random.default_rng([seed, digit])
    glyph = _GLYPHS[digit][rng.integers(len(_GLYPHS[digit]))]
    slant = float(np.clip(rng.normal(0.16, 0.16), -0.2, 0.5))
    if digit == 1:
        slant += float(rng.uniform(-0.1, 0.2))
    stretch = float(np.clip(rng.normal(1.08, 0.12), 0.85, 1.35))
    turn = float(np.clip(rng.normal(0.0, 0.05), -0.12, 0.12))
    pen_width = float(np.clip(rng.normal(0.112, 0.022), 0.075, 0.16))

    lines = [_wobble(_spline(points), rng) for points in _control_points(glyph)]
    bend = _bend(rng)
    linear = np.array([[1.0, 0.0], [-slant, stretch]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    lines = [bend(line - (0.5, 0.3)) @ (rotation @ linear).T for line in lines]
    return _normalised(digit, lines, pen_width)


def _control_points(glyph: str) -> list[NDArray[np.float64]]:
    """The strokes of a letter form, each (n, 2) in (y, x)."""
    strokes = glyph.split("/")
    return [np.array([point.split(",")[::-1] for point in stroke.split()], np.float64) / 100 for stroke in strokes]


def _spline(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth line through control points, parametrised by the root of the chord so that it does not overshoot."""
    chords = np.hypot(*np.diff(points, axis=0).T)
    t = np.concatenate([[0.0], np.cumsum(np.sqrt(chords))])
    return CubicSpline(t, points, bc_type="natural")(np.linspace(0.0, t[-1], 10 * len(points)))


def _wobble(line: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The hand's unsteadiness; it vanishes at both ends, so that strokes that meet still do."""
    t = np.linspace(0.0, np.pi, len(line))
    waves = np.stack([np.sin(k * t) / k for k in range(1, 6)])
    return line + waves.T @ rng.normal(0.0, 0.012, (5, 2))


def _bend(rng: np.random.Generator) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A smooth random deformation of the plane: the same for all strokes, so that joints stay joints."""
    waves = rng.normal(0.0, 3.2, (6, 2))
    phases = rng.uniform(0.0, 2 * np.pi, 6)
    amplitudes = rng.normal(0.0, 0.022, (6, 2))

    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points + np.sin(points @ waves.T + phases) @ amplitudes

    return apply


def _normalised(digit: int, lines: list[NDArray[np.float64]], pen_width: float) -> Drawing:
    """Scale the ink to height 1 (and to width 1 at most) and put its centre of mass at the origin."""
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1e-6)
    scale = (1.0 - pen_width) / extent[0]
    scale_x = min(scale, (1.0 - pen_width) / extent[1])
    middle = (low + high) / 2
    centred = tuple(Stroke((line - middle) * (scale, scale_x)) for line in lines)
    drawing = Drawing(digit, centred, pen_width)
    pixel, size = 1 / 96, 112
    ink = render(drawing, 1.0, pixel, (size, size), oversampling=1)
    axis = (np.arange(size) - size // 2) * pixel
    mass = ink.sum()
    centre = np.array([ink.sum(axis=1) @ axis, ink.sum(axis=0) @ axis]) / mass
    return Drawing(digit, tuple(Stroke(stroke.points - centre) for stroke in centred), pen_width)


def render(
    drawing: Drawing,
    height_m: float,
    pixel_m: float,
    shape: tuple[int, int],
    centre_m: tuple[float, float] = (0.0, 0.0),
    oversampling: int = RENDER_OVERSAMPLING,
) -> NDArray[np.float32]:
    """Amplitude transmission of a drawing, (rows, columns) float32 in 0..1: 1 in the ink, 0 on the ground.

    Pixel centres lie at centre_m + (index - n//2) * pixel_m, (y, x) in metres from the ink's centre of mass. Rendered
    on a grid `oversampling` times finer, where coverage follows from the distance to the pen's path, and averaged:
    edges are one pixel soft.
    """
    step = pixel_m / oversampling / height_m
    axes = []
    for n, middle in zip(shape, centre_m, strict=True):
        index = np.arange(n * oversampling) - n // 2 * oversampling - (oversampling - 1) / 2
        axes.append(index * step + middle / height_m)
    fine = np.zeros((len(axes[0]), len(axes[1])), np.float32)
    reach = drawing.pen_width / 2 + step
    for stroke in drawing.strokes:
        for start, end in zip(stroke.points[:-1], stroke.points[1:], strict=True):
            box = tuple(
                slice(*np.searchsorted(axis, (min(a, b) - reach, max(a, b) + reach)))
                for axis, a, b in zip(axes, start, end, strict=True)
            )
            y, x = axes[0][box[0]][:, None] - start[0], axes[1][box[1]][None, :] - start[1]
            along = end - start
            length2 = max(float(along @ along), 1e-18)
            nearest = np.clip((y * along[0] + x * along[1]) / length2, 0.0, 1.0)
            distance = np.hypot(y - nearest * along[0], x - nearest * along[1])
            coverage = np.clip((drawing.pen_width / 2 - distance) / step + 0.5, 0.0, 1.0)
            np.maximum(fine[box], coverage, out=fine[box], casting="same_kind")
    rows, columns = shape
    return fine.reshape(rows, oversampling, columns, oversampling).mean(axis=(1, 3), dtype=np.float32)


# ---- Pictures -----------------------------------------------------------------------------------------------------


def read_picture(path: Path | str) -> NDArray[np.float32]:
    """A picture file as (rows, columns) float32 grey in 0..1: bright transmits.

    Raises:
        SampleError: the file is missing or not a picture.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"), np.float32) / 255.0
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SampleError(f"{path}: not a readable picture ({type(error).__name__}); use PNG, TIFF or JPEG") from None


def read_idx(path: Path | str, index: int) -> NDArray[np.float32]:
    """Image `index` of an IDX file of bytes (MNIST's format, plain or gzipped), (rows, columns) float32 in 0..1.

    Raises:
        SampleError: the file is missing or not IDX images, or the index is beyond its end.
    """
    try:
        raw = Path(path).read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise SampleError(f"{path}: cannot be read ({type(error).__name__}); give an IDX file of images") from None
    if len(raw) < 16 or raw[:4] != b"\x00\x00\x08\x03":
        raise SampleError(f"{path}: not an IDX file of images (bytes, three dimensions); give one, plain or gzipped")
    count, rows, columns = (int(n) for n in np.frombuffer(raw, ">u4", 3, 4))
    if len(raw) != 16 + count * rows * columns:
        raise SampleError(f"{path}: {len(raw)} bytes, its header promises {16 + count * rows * columns}; get it again")
    if not 0 <= index < count:
        raise SampleError(f"{path}: image {index} is outside 0 .. {count - 1}; choose one inside")
    size = rows * columns
    return np.frombuffer(raw, np.uint8, size, 16 + index * size).reshape(rows, columns).astype(np.float32) / 255.0


def read_array(path: Path | str) -> NDArray:
    """The array of an .npy file, (rows, columns): complex transmission, or amplitude. Nothing in it is executed.

    Raises:
        SampleError: the file is missing, not an .npy file, or holds no numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise SampleError(
            f"{path}: not a readable .npy array ({type(error).__name__}); write one with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fcui":
        raise SampleError(f"{path}: holds no single array of numbers; write one complex array with numpy.save")
    return array


# ---- The sample ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A transmitting image in an opaque square, empty beyond it.

    It is an amplitude, or a complex transmission with a phase. The image, bilinear between the centres of its pixels
    and 0 outside them, *is* the object: any position is exact.

    Attributes:
        image: (rows, columns) float32 amplitude transmission in 0..1, or complex64 of such an amplitude.
        pitch_m: of the image's pixels.
        middle: (y, x) index, fractional, of the object's origin.
        opaque_m: side of the opaque square about the origin.
    """

    image: NDArray[np.float32] | NDArray[np.complex64]
    pitch_m: float
    middle: tuple[float, float]
    opaque_m: float

    def __post_init__(self) -> None:
        half = self.opaque_m / 2
        for n, middle in zip(self.image.shape, self.middle, strict=True):
            if max(middle, n - 1 - middle) * self.pitch_m > half:
                raise SampleError(
                    f"sample: an image of {n * self.pitch_m:.4g} m does not fit into the opaque field of "
                    f"{self.opaque_m:.4g} m; make the image smaller or the field larger"
                )

    @classmethod
    def from_drawing(
        cls, drawing: Drawing, height_m: float, opaque_m: float, pitch_m: float = TEXTURE_PIXEL_M
    ) -> Sample:
        """A drawing of `height_m`, its centre of mass at the object's origin."""
        top, bottom, left, right = (edge * height_m for edge in drawing.bounds())
        half_y, half_x = (int(np.ceil(max(-low, high) / pitch_m)) + 2 for low, high in ((top, bottom), (left, right)))
        image = render(drawing, height_m, pitch_m, (2 * half_y + 1, 2 * half_x + 1))
        return cls(image, pitch_m, (half_y, half_x), opaque_m)

    @classmethod
    def from_image(cls, image: NDArray, side_m: float, opaque_m: float) -> Sample:
        """A grey or complex image (rows, columns) whose longer side is `side_m`, its middle at the object's origin.

        Raises:
            SampleError: not a two-dimensional array of finite values in 0..1, or of complex ones of such a modulus.
        """
        image = np.asarray(image)
        image = image.astype(np.complex64 if image.dtype.kind == "c" else np.float32)
        # A phase factor of modulus one may exceed it by its rounding.
        values, most = (np.abs(image), 1 + 1e-6) if image.dtype.kind == "c" else (image, 1.0)
        if image.ndim != 2 or image.size == 0 or not ((values >= 0) & (values <= most)).all():
            kind = "moduli" if image.dtype.kind == "c" else "values"
            reach = f"; it has {values.min():.3g} to {values.max():.3g}" if image.size else ""
            raise SampleError(
                f"sample: image of shape {image.shape} must be two-dimensional with {kind} in 0..1{reach}"
            )
        rows, columns = image.shape
        # A border of zeros: between the last pixel and the ground the transmission falls as between any two pixels.
        middle = ((rows - 1) / 2 + 1, (columns - 1) / 2 + 1)
        return cls(np.pad(image, 1), side_m / max(rows, columns), middle, opaque_m)

    def transmission(
        self, pixel_m: float, shape: tuple[int, int], centre_m: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.complex64]:
        """(rows, columns) complex64 amplitude transmission, averaged over pixels of `pixel_m`.

        Pixel centres lie at centre_m + (index - n//2) * pixel_m, (y, x) in metres from the object's origin.
        """
        parts = max(1, round(pixel_m / self.pitch_m))
        (weights_y, opaque_y), (weights_x, opaque_x) = (
            self._axis(pixel_m, n, centre, parts, length, middle)
            for n, centre, length, middle in zip(shape, centre_m, self.image.shape, self.middle, strict=True)
        )
        low, share = weights_y
        rows = self.image[low] * (1 - share)[:, None] + self.image[low + 1] * share[:, None]
        rows = rows.reshape(shape[0], parts, -1).mean(axis=1, dtype=self.image.dtype)
        low, share = weights_x
        image = rows[:, low] * (1 - share) + rows[:, low + 1] * share
        ink = image.reshape(shape[0], shape[1], parts).mean(axis=2, dtype=self.image.dtype)
        return (ink + (1 - opaque_y[:, None] * opaque_x)).astype(np.complex64)

    def _axis(
        self, pixel_m: float, n: int, centre_m: float, parts: int, length: int, middle: float
    ) -> tuple[tuple[NDArray[np.intp], NDArray[np.float32]], NDArray[np.float32]]:
        """Along one axis: lower neighbours and shares of the samples; the share of each pixel in the opaque field."""
        pixels = centre_m + (np.arange(n) - n // 2) * pixel_m
        offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * pixel_m
        # Clipped to the image's border, which is zero.
        at = np.clip(((pixels[:, None] + offsets) / self.pitch_m + middle).ravel(), 0.0, length - 1.0)
        low = np.minimum(at.astype(np.intp), length - 2)
        covered = np.clip((self.opaque_m / 2 - np.abs(pixels)) / pixel_m + 0.5, 0.0, 1.0)
        return (low, (at - low).astype(np.float32)), covered.astype(np.float32)
