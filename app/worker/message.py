"""What window and worker say to each other: frozen records, each a JSON header and the raw bytes of its arrays.

Nothing that arrives is believed: type, version, fields, dtypes, dimensions and sizes are checked, and what does not fit
raises `MessageError` with one line. Nothing is ever unpickled. Numbers are SI, arrays row-major.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import ConfigDict, Field, PlainValidator, ValidationError
from pydantic.dataclasses import dataclass

VERSION = 6
"""Raised whenever a record changes; window and worker have to be of one version."""
MOST_BYTES = 1 << 30
"""Of one message: nobody fills a stranger's memory."""
MOST_HEADER = 1 << 24

_STRICT = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)


class MessageError(Exception):
    """What arrived is no message of this version; one line says why."""


def _array(dtype: type, dimensions: int) -> PlainValidator:
    def check(value: Any) -> np.ndarray:
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != dimensions:
            got = f"{value.dtype} of {value.ndim} dimensions" if isinstance(value, np.ndarray) else type(value).__name__
            raise ValueError(f"expected {np.dtype(dtype)} of {dimensions} dimensions, got {got}")
        return value

    return PlainValidator(check)


Raw: TypeAlias = Annotated[np.ndarray, _array(np.uint16, 2)]
Image: TypeAlias = Annotated[np.ndarray, _array(np.float32, 2)]
Wave: TypeAlias = Annotated[np.ndarray, _array(np.complex64, 2)]
Mask: TypeAlias = Annotated[np.ndarray, _array(np.bool_, 2)]
Places: TypeAlias = Annotated[np.ndarray, _array(np.float64, 2)]
Series: TypeAlias = Annotated[np.ndarray, _array(np.float64, 1)]
Vector: TypeAlias = Annotated[np.ndarray, _array(np.float32, 1)]
Draws: TypeAlias = Annotated[np.ndarray, _array(np.float16, 3)]
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Pair: TypeAlias = tuple[Number, Number]
Key: TypeAlias = tuple[Count, Count]
"""Step of the plan and repeat within it: which frame."""


@dataclass(frozen=True, config=_STRICT)
class Hello:
    """A window that arrives. `client` is its own name for as long as it lives."""

    client: str


@dataclass(frozen=True, config=_STRICT)
class Begin:
    """A run that is watched.

    Attributes:
        run: its identity; another for each watching.
        name: of its file, for messages.
        plan, profile: JSON, as executed.
        wavelength_m, distance_m, pixel_size_m, shape: nominal geometry.
        illumination_m: diameter of the beam.
        electrons_per_adu, saturation_adu, quantum_efficiency, exposure_offset_s: of the camera, as the run knows it.
        stage_to_object, centre_m: of the stage.
        reuses: whether a calibration of another run holds; a `Carried` brings it.
        known: whether this run's own calibration is known; a `Calibrated` brings it.
        lent: whether another run's calibration serves until this one has its own; a `Carried` brings it.
    """

    run: str
    name: str
    plan: str
    profile: str
    wavelength_m: Number
    distance_m: Number
    pixel_size_m: Number
    shape: tuple[int, int]
    illumination_m: Number
    electrons_per_adu: Number
    saturation_adu: Number
    quantum_efficiency: Number
    exposure_offset_s: Number
    stage_to_object: tuple[Pair, Pair]
    centre_m: Pair
    reuses: bool = False
    known: bool = False
    lent: bool = False


@dataclass(frozen=True, config=_STRICT)
class Carried:
    """Another run's calibration: what of it holds for a new sample, never its object.

    Attributes:
        probe, distance_m, positions_m, window, stage_m: see `recon.files.reuse.Reusable`.
        empty, empty_exposure_s: (H, W) electrons of its empty beam; (0, 0) and 0 where there was none.
        good: (H, W) its good pixels.
    """

    run: str
    probe: Wave
    distance_m: Number
    positions_m: Places
    window: Count
    stage_m: Places
    empty: Image
    empty_exposure_s: Number
    good: Mask


@dataclass(frozen=True, config=_STRICT)
class Darks:
    """Statistics of the darks of one exposure: (H, W) mean and sample variance, raw units."""

    run: str
    exposure_s: Number
    count: Count
    mean: Image
    variance: Image


@dataclass(frozen=True, config=_STRICT)
class Frame:
    """One frame with everything that belongs to it.

    Attributes:
        stream: empty, calibration or evaluation.
        step, repeat: its place in the plan.
        position_index: scan point, -1 where none applies.
        asked_exposure_s, exposure_s: as planned, and as it took place.
        time: seconds since the epoch; of two frames with one place in the plan the later counts.
        readback_m: (y, x) displacement of the stage; None when it had no reference.
        image: (H, W) raw.
    """

    run: str
    stream: str
    step: Count
    repeat: Count
    position_index: int
    asked_exposure_s: Number
    exposure_s: Number
    time: Number
    readback_m: Pair | None
    image: Raw


@dataclass(frozen=True, config=_STRICT)
class Choose:
    """How the run is to be reconstructed from now on; estimates begin anew.

    Attributes:
        decoder: name or path on the worker's machine; "" for the profile's.
        pose: "free" or "known".
        conventional: whether a conventional image is made as well.
        ahead: whether images on the way say what one more frame at each point would tell.
    """

    run: str
    decoder: str = ""
    pose: str = "free"
    conventional: bool = True
    ahead: bool = False


@dataclass(frozen=True, config=_STRICT)
class Ping:
    """A sign of life of the window, and how far the run is.

    Attributes:
        number: counts; comes back in the `Pong`.
        run: that is watched; "" for none.
        committed: (step, repeat) up to which, this one not included, frames are in the file.
        ended: how the run ended; "" while it goes on.
        left_out: steps before `committed` that hold no frame: there was enough light.
    """

    number: Count
    run: str = ""
    committed: Key = (0, 0)
    ended: str = ""
    left_out: tuple[Count, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class Welcome:
    """A worker that answers a `Hello`.

    Attributes:
        instance: another for each process that ever served.
        device: where it computes.
        software: names and versions.
    """

    instance: str
    device: str
    software: dict[str, str]


@dataclass(frozen=True, config=_STRICT)
class Pong:
    """A sign of life of the worker.

    Attributes:
        number: of the ping that is answered.
        run: that it knows; "" for none.
        needs: what it lacks of the run besides frames: "begin", "carried", "calibrated".
        darks: exposures whose darks it lacks.
        lacks: some of the frames that are committed and have not arrived.
        received, refused: messages since it started; those that were malformed.
        behind: frames committed and not yet in an estimate.
        doing: what it works on, in words; "" for nothing.
    """

    number: Count
    run: str
    needs: tuple[str, ...]
    darks: tuple[Number, ...]
    lacks: tuple[Key, ...]
    received: Count
    refused: Count
    behind: Count
    doing: str


@dataclass(frozen=True, config=_STRICT)
class Epoch:
    """Progress of a calibration, with small pictures.

    Attributes:
        epoch, epochs, stage: where it is.
        loss, distance_m, moved_px: of this epoch.
        probe, object: complex fields, thinned out.
    """

    run: str
    epoch: Count
    epochs: Count
    stage: str
    loss: Number
    distance_m: Number
    moved_px: Number
    probe: Wave
    object: Wave


@dataclass(frozen=True, config=_STRICT)
class Calibrated:
    """A calibration as a run keeps it; see `recon.files.results.StoredCalibration`.

    Attributes:
        times: of the frames it was made from, seconds since the epoch: they tell which visits these are.
        settings, software: JSON.
    """

    run: str
    probe: Wave
    object: Wave
    pixel_m: Number
    distance_m: Number
    positions_m: Places
    times: Series
    loss: Series
    settings: str
    software: str


@dataclass(frozen=True, config=_STRICT)
class Estimate:
    """A latent image, as a run keeps it and a window shows it.

    Attributes:
        exposure_s: whose frames.
        frames, planned: how many are in it, of how many.
        final: whether it is that of `ptychoscope reconstruct`: of all frames that there are.
        decoder, pose_prior: with what it was made.
        lent: whether it was made under another run's calibration, until this one has its own.
        seconds: that it took.
        numbers: JSON: verdict, reason, photons and all the rest.
        image, deviation, spread, decoder_mean, mode: (s, s); see `recon.posterior.Posterior`.
        modes: (m, s, s) of each mode, the one with the most evidence first.
        samples, parameters, latent, frame_scores, pose, pose_sigma: see there.
        measured, predicted: electrons of all frames, and as the image predicts them, summed in blocks.
        variance: of a block in the dark, electrons squared.
        block_m: side of a block.
    """

    run: str
    exposure_s: Number
    frames: Count
    planned: Count
    final: bool
    decoder: str
    pose_prior: str
    lent: bool
    seconds: Number
    numbers: str
    image: Image
    deviation: Image
    spread: Image
    decoder_mean: Image
    mode: Image
    modes: Draws
    samples: Draws
    parameters: Image
    latent: Vector
    frame_scores: Vector
    pose: Vector
    pose_sigma: Vector
    measured: Image
    predicted: Image
    variance: Image
    block_m: Number


@dataclass(frozen=True, config=_STRICT)
class Pixels:
    """A conventional image beside the latent one: (s, s) amplitude of the decoder's square."""

    run: str
    exposure_s: Number
    frames: Count
    image: Image


@dataclass(frozen=True, config=_STRICT)
class Said:
    """A line for people. `bad`: something failed; `what`: calibration, estimate, frames."""

    run: str
    what: str
    words: str
    bad: bool = False


ToWorker: TypeAlias = Hello | Begin | Carried | Darks | Frame | Choose | Ping | Calibrated
ToWindow: TypeAlias = Welcome | Pong | Epoch | Calibrated | Estimate | Pixels | Said
Message: TypeAlias = ToWorker | ToWindow
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Hello, Begin, Carried, Darks, Frame, Choose, Ping),
        *(Welcome, Pong, Epoch, Calibrated, Estimate, Pixels, Said),
    )
}
_DTYPES = {np.dtype(t).str: np.dtype(t) for t in ("<u2", "<f2", "<f4", "<f8", "<c8", "|b1")}


MOST_EMPTY = 1 << 16
"""Largest side of an array that holds nothing."""


def encode(message: Message) -> list[bytes]:
    """The parts of a message: a header, then each array's bytes."""
    plain: dict[str, Any] = {}
    arrays, parts = [], []
    for entry in fields(message):
        value = getattr(message, entry.name)
        if isinstance(value, np.ndarray):
            held = np.ascontiguousarray(value)
            arrays.append([entry.name, held.dtype.str, list(held.shape)])
            parts.append(held.tobytes())
        else:
            plain[entry.name] = value
    header = {"ptychoscope": VERSION, "kind": type(message).__name__, "plain": plain, "arrays": arrays}
    return [json.dumps(header, allow_nan=False, separators=(",", ":")).encode(), *parts]


def decode(parts: Sequence[bytes]) -> Message:
    """The message of these parts. Raises `MessageError`, whatever they are."""
    if not parts or len(parts[0]) > MOST_HEADER or sum(len(part) for part in parts) > MOST_BYTES:
        raise MessageError(f"message of {len(parts)} parts: empty or too large; it is refused")
    try:
        header = json.loads(parts[0].decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MessageError("message: its header is no JSON; it is refused") from None
    if not isinstance(header, dict) or set(header) != {"ptychoscope", "kind", "plain", "arrays"}:
        raise MessageError("message: its header is not one of this program; it is refused")
    if header["ptychoscope"] != VERSION:
        said = repr(header["ptychoscope"])[:40]
        raise MessageError(f"message of version {said}, this is {VERSION}; install the same release")
    name, plain, arrays = header["kind"], header["plain"], header["arrays"]
    if not isinstance(name, str) or name not in KINDS or not isinstance(plain, dict) or not isinstance(arrays, list):
        raise MessageError(f"message of kind {str(name)[:40]!r}: there is none such; it is refused")
    if len(arrays) != len(parts) - 1:
        raise MessageError(f"{name}: {len(parts) - 1} arrays came, its header has {len(arrays)}; it is refused")
    values = dict(plain)
    for described, part in zip(arrays, parts[1:], strict=True):
        field, array = _array_of(name, described, part)
        if field in values:
            raise MessageError(f"{name}: {field} comes twice; it is refused")
        values[field] = array
    try:
        return KINDS[name](**{field: _tuples(value) for field, value in values.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:60]
        raise MessageError(f"{name}: {place}: {first['msg'][:120]}; it is refused") from None
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise MessageError(f"{name}: cannot be read ({type(error).__name__}); it is refused") from None


def _array_of(name: str, described: Any, part: bytes) -> tuple[str, np.ndarray]:
    try:
        field, kind, shape = described
        dtype = _DTYPES[kind]
        sizes = [int(n) for n in shape]
        good = isinstance(field, str) and all(type(n) is int and 0 <= n <= MOST_BYTES for n in shape)
        # Sizes without bytes behind them are nobody's.
        good = good and (all(sizes) or max(sizes) <= MOST_EMPTY)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise MessageError(f"{name}: an array is described wrongly; it is refused") from None
    if not good or len(sizes) > 4 or math.prod(sizes) * dtype.itemsize != len(part):
        raise MessageError(f"{name}: an array of {len(part)} bytes is described as {sizes[:4]} {dtype}; it is refused")
    return field, np.frombuffer(part, dtype).reshape(sizes)


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _tuples(value: Any) -> Any:
    """JSON's lists stand for tuples."""
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
