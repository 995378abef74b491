"""The measurement behind `ptychoscope align`: jog, watch, and find out how stage, sample, beam and camera lie together.

Nothing is assumed about the mounting: directions, scale and rotation come from moves of the sample as the camera sees
them. The sample's transmission must lie between 0 and 1 and show some structure in the beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.acquire.planning import lowest_point
from app.bench import registration
from app.bench.beam import Beam, FreeSpace, Grid, find_light, fit_beam
from app.bench.characterisation import MeasuredAlignment
from app.bench.exposing import LightError, find_exposure
from app.bench.session import Session
from drivers.base import Cancelled, InstrumentError, LightState, LimitError, Region, StagePosition

TINY_M = 2.0e-5
STEP_M = 5.0e-5
STEPS = 7
"""Steps to either side of the start, along each axis."""
LAGS = (1, 2, 3)
FRAMES = 2
EMPTY_FRAMES = 6
TOP = 0.7
"""Brightest pixels, of the range."""
LEAST_CHANGE = 0.02
"""Share of the light that a tiny move has to redistribute."""
WORST_MISFIT = 0.03
LEAST_LIGHT = 0.02
"""Of the empty beam's; darker frames say nothing."""
LEAST_LIKENESS = 0.6
LEAST_PLACES = 6
SECOND_LOOKS = 2
AGAIN = 25
"""Iterations of a look that begins with the sample put together."""
WORST_ROTATION_RAD = 0.02
WORST_SCALE = 0.03
DISTANCE_ERROR = 0.01
"""Relative error of a distance by ruler: the scale seen is wrong by as much."""
STRIDES = (1, 2, 4, 8, 16, 32)


class AlignError(InstrumentError):
    """The bench cannot be aligned as it stands."""

    def __init__(self, message: str):
        super().__init__("align", message)


@dataclass(frozen=True)
class Seen:
    """One place of the sample and what was seen there.

    Attributes:
        stage_m: (y, x) displacement read back.
        transmission: (size, size) of the sample inside the beam.
        misfit: share of the light that it leaves unexplained.
        light: of the frame, over the empty beam's.
    """

    stage_m: tuple[float, float]
    transmission: NDArray[np.float64]
    misfit: float
    light: float


@dataclass(frozen=True)
class Map:
    """Displacement of the stage to position of the beam on the object.

    Attributes:
        matrix: (2, 2), (y, x) from (y, x).
        rotation_deg, rotation_error_deg: beyond quarter turns and flips.
        scale, scale_error: root of the determinant's size; statistical.
        mirrored: whether the determinant is negative.
        residual_m: rms distance of the places from the map.
        places: how many.
    """

    matrix: NDArray[np.float64]
    rotation_deg: float
    rotation_error_deg: float
    scale: float
    scale_error: float
    mirrored: bool
    residual_m: float
    places: int


@dataclass(frozen=True)
class Alignment:
    """Everything that `align` found.

    Attributes:
        measured: for the file.
        found: the map as measured.
        beam: the wave of the empty beam.
        beam_px: (row, column) of its middle on the sensor.
        grid: of the transmissions.
        seen: every place.
        positions_m: (N, 2) where the beam hit the object at each place, NaN where that could not be told.
        empty, start: (rows, columns) pictures of the region, for people.
    """

    measured: MeasuredAlignment
    found: Map
    beam: Beam
    beam_px: tuple[float, float]
    grid: Grid
    seen: tuple[Seen, ...]
    positions_m: NDArray[np.float64]
    empty: NDArray[np.float64]
    start: NDArray[np.float64]


def places(start: StagePosition) -> list[StagePosition]:
    """Where the stage goes: a tiny step along each axis first, then along each axis through the start."""
    tiny = [StagePosition(start.y + TINY_M, start.x), StagePosition(start.y, start.x + TINY_M)]
    offsets = [k * STEP_M for k in range(-STEPS, STEPS + 1)]
    along_y = [StagePosition(start.y + d, start.x) for d in offsets]
    along_x = [StagePosition(start.y, start.x + d) for d in offsets]
    return [start, *tiny, *along_y, *along_x]


def align(session: Session, start: StagePosition, now: float) -> Alignment:
    """Frames at `places`, then of the empty beam with the sample parked; the stage ends at the start.

    The moves must have been confirmed. The camera's region is put back at the end. The centre of the scans is not
    measured: the known one is kept, wherever the start is.

    Raises:
        AlignError: no light, too little contrast, or frames that do not agree.
        LimitError: a place outside the soft limits; nothing has moved.
        NotReadyError: the stage is not homed.
    """
    devices, profile = session.devices, session.profile
    camera, stage = devices.camera, devices.stage
    todo = places(start)
    parked = StagePosition(*profile.stage.park_m)
    for place in [*todo, parked]:
        stage.info.require(place)
        stage.info.require(lowest_point(place, profile.stage))
    before = camera.info.region
    try:
        return _align(session, todo, parked, now)
    finally:
        camera.set_region(before)


def _align(session: Session, todo: Sequence[StagePosition], parked: StagePosition, now: float) -> Alignment:
    devices, profile = session.devices, session.profile
    camera = devices.camera
    pinhole = profile.geometry.pinhole_diameter_m
    pixel = camera.info.pixel_size_m
    session.light(LightState.OPEN)
    session.course.begin("looking", 3)
    session.go(todo[0])
    # The whole sensor first: the beam need not be in its middle.
    sensor = camera.info.sensor_shape
    camera.set_region(Region(0, 0, *sensor))
    try:
        exposure_s, number = find_exposure(session, camera.info.black_level_adu, TOP, 0)
    except LightError as error:
        raise AlignError(f"{error}; or nothing here lets light through: start elsewhere (--start Y,X)") from None
    wide, number = _picture(session, exposure_s, 1, number)
    light = find_light(wide, 2 * pinhole / pixel)
    if light is None:
        raise AlignError("no light reaches the camera; unblock the beam, or move the sample out of its way")
    region = region_about(light[0], profile.camera.shape, sensor)
    region = _set_region(session, region)
    frames, moved_m = [], []
    for k, place in enumerate(todo):
        if k == 3:
            session.course.begin("moving and watching", len(todo) - 3)
        readback = session.go(place)
        frame, number = _picture(session, exposure_s, FRAMES, number)
        frames.append(frame)
        moved_m.append(readback.as_tuple())
        session.course.advance(k + 1 if k < 3 else k - 2)
        if k == 2:
            require_contrast(frames)
    session.course.begin("the empty beam", EMPTY_FRAMES)
    session.go(parked)
    camera.set_region(Region(0, 0, *sensor))
    empty_s, number = find_exposure(session, camera.info.black_level_adu, TOP, number)
    empty, number = _picture(session, empty_s, EMPTY_FRAMES, number)
    session.course.advance(EMPTY_FRAMES)
    session.go(todo[0])
    light = find_light(empty, 1.5 * pinhole / pixel)
    if light is None:
        raise AlignError("no light with the sample parked; unblock the beam, or correct stage.park_m")
    middle = light[0]
    grid = Grid.choose(pixel, pinhole)
    space = FreeSpace(grid, profile.geometry.wavelength_m, profile.geometry.distance_m)
    session.course.begin("the beam's wave", 1)
    beam = fit_beam(grid.cut(empty, middle) / empty_s, grid, space, pinhole)
    session.course.advance(1)
    # The cut begins at a whole pixel, and a working pixel's middle lies between those of its camera pixels.
    half = (grid.binning - 1) / 2
    beam_px = (
        round(middle[0]) + half + beam.centre_m[0] / pixel,
        round(middle[1]) + half + beam.centre_m[1] / pixel,
    )
    proposal = _set_region(session, region_about(beam_px, profile.camera.shape, sensor))
    local = (round(middle[0]) - region.top, round(middle[1]) - region.left)
    cuts = [grid.cut(frame, local) / exposure_s for frame in frames]
    seen = look_back(session, cuts, moved_m, beam, space)
    mask = registration.trusted(beam.wave)
    found, positions = measure_map(seen, mask, grid.pixel_m)
    # Again from the sample put together: what a start leaves in a result then moves with the sample, whereas a
    # start that stays with the beam makes all shifts look smaller, by half a per cent.
    for _ in range(SECOND_LOOKS):
        seen = look_back(session, cuts, moved_m, beam, space, again(seen, positions / grid.pixel_m, mask), AGAIN)
        found, positions = measure_map(seen, mask, grid.pixel_m)
    trusted_scale = abs(found.scale - 1) > 2 * np.hypot(found.scale_error, DISTANCE_ERROR)
    matrix = found.matrix if trusted_scale else found.matrix / found.scale
    stage, info = devices.stage.info, camera.info
    measured = MeasuredAlignment(
        date=datetime.fromtimestamp(now, UTC).replace(microsecond=0),
        stage_serial=stage.serial,
        camera_serial=info.serial,
        stage_to_object=((matrix[0, 0], matrix[0, 1]), (matrix[1, 0], matrix[1, 1])),
        # Where the sample's middle is, no picture here tells: the start is only a place with an edge in the beam.
        centre_m=session.known.stage.centre_m,
        origin=(proposal.top, proposal.left),
        rotation_deg=found.rotation_deg,
        rotation_error_deg=found.rotation_error_deg,
        scale=found.scale,
        scale_error=float(np.hypot(found.scale_error, DISTANCE_ERROR)),
        mirrored=found.mirrored,
    )
    box = (slice(proposal.top, proposal.top + proposal.rows), slice(proposal.left, proposal.left + proposal.columns))
    return Alignment(measured, found, beam, beam_px, grid, tuple(seen), positions, empty[box], frames[0])


def require_contrast(frames: Sequence[NDArray[np.float64]]) -> None:
    """Raise `AlignError` unless tiny moves along both axes change the picture by more than noise and drift do.

    Args:
        frames: (rows, columns) at the start and after a tiny move along each axis.
    """
    base, *moved = (ndimage.gaussian_filter(frame, 2.0) for frame in frames)
    total = float(np.abs(base).sum())
    # Redistributed, not lost: a flickering source scales the picture without changing it.
    changes = [float(np.abs(m * (base.sum() / m.sum()) - base).sum()) / total / 2 for m in moved]
    if max(changes) < LEAST_CHANGE:
        raise AlignError(
            f"a move of {TINY_M * 1e6:.0f} um moves only {100 * max(changes):.2f} % of the light, "
            f"{100 * LEAST_CHANGE:.0f} % is needed: no edge of the sample is in the beam; bring one there (--start Y,X)"
        )


def look_back(
    session: Session,
    pictures: Sequence[NDArray[np.float64]],
    moved_m: Sequence[tuple[float, float]],
    beam: Beam,
    space: FreeSpace,
    starts: Sequence[NDArray[np.float64] | None] | None = None,
    iterations: int = registration.ITERATIONS,
) -> list[Seen]:
    """The sample's transmission behind each picture, with progress; `starts` are what each begins with."""
    session.course.begin("looking back to the sample" if starts is None else "looking again", len(pictures))
    full = float(np.sum(np.abs(space.to_camera(beam.wave)) ** 2))
    found = []
    for picture, moved, start in zip(pictures, moved_m, starts or [None] * len(pictures), strict=True):
        if session.interrupt():
            raise Cancelled("align", "interrupted; nothing was written")
        seen, misfit = registration.transmission(picture, beam.wave, space, start, iterations)
        found.append(Seen(moved, seen, misfit, float(np.nansum(picture)) / full))
        session.course.advance(len(found))
    return found


def again(
    seen: Sequence[Seen], places_px: NDArray[np.float64], mask: NDArray[np.bool_]
) -> list[NDArray[np.float64] | None]:
    """What the sample put together looks like at each place, (size, size); None where the place is not known."""
    places_px = places_px - np.nanmean(places_px, axis=0)
    picture, weight, margin = registration.mosaic([s.transmission for s in seen], places_px, mask)
    return [
        registration.seen_at(picture, weight, margin, place, len(mask)) if np.isfinite(place).all() else None
        for place in places_px
    ]


def measure_map(seen: Sequence[Seen], mask: NDArray[np.bool_], pixel_m: float) -> tuple[Map, NDArray[np.float64]]:
    """The map from stage to object, and where the beam hit the object at each place, (N, 2) metres.

    Raises:
        AlignError: too few frames agree, or the map is less certain than an alignment has to be.
    """
    stage_m = np.array([s.stage_m for s in seen])
    good = [k for k, s in enumerate(seen) if s.misfit < WORST_MISFIT and s.light > LEAST_LIGHT]
    pairs, shifts = [], []
    for i, j in _pairs(stage_m, good):
        reach = 3 * float(np.hypot(*(stage_m[j] - stage_m[i]))) / pixel_m + 3
        shift = registration.shift_between(seen[i].transmission, seen[j].transmission, mask, reach)
        if shift is not None and shift.likeness > LEAST_LIKENESS:
            pairs.append((i, j))
            shifts.append(shift)
    found, _ = registration.places_from_shifts(len(seen), pairs, shifts)
    # What is seen moves against the beam's place on the object.
    positions = -found * pixel_m
    known = np.isfinite(positions).all(axis=1)
    spans = np.ptp(stage_m[known], axis=0) if known.any() else np.zeros(2)
    if known.sum() < LEAST_PLACES or spans.min() < 3 * STEP_M:
        raise AlignError(
            f"only {int(known.sum())} of {len(seen)} frames show enough of the sample, over "
            f"{spans[0] * 1e6:.0f} x {spans[1] * 1e6:.0f} um (y, x); start where more of it is in the beam (--start)"
        )
    return fit_map(stage_m[known], positions[known]), positions


def fit_map(stage_m: NDArray[np.float64], positions_m: NDArray[np.float64]) -> Map:
    """Least squares of positions on displacements, both (N, 2) metres. Raises `AlignError` when it is uncertain."""
    d = stage_m - stage_m.mean(axis=0)
    p = positions_m - positions_m.mean(axis=0)
    inverse = np.linalg.inv(d.T @ d)
    matrix = (inverse @ d.T @ p).T
    residual = p - d @ matrix.T
    freedom = max(2 * len(d) - 6, 1)
    variance = float((residual**2).sum()) / freedom
    quarter = nearest_quarter_turn(matrix)
    turned = quarter.T @ matrix
    rotation = float(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1]))
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    error = float(np.sqrt(variance * np.trace(inverse) / 4))
    found = Map(
        matrix=matrix,
        rotation_deg=float(np.degrees(rotation)),
        rotation_error_deg=float(np.degrees(error / scale)),
        scale=scale,
        scale_error=error,
        mirrored=bool(np.linalg.det(matrix) < 0),
        residual_m=float(np.sqrt(np.mean(np.sum(residual**2, axis=1)))),
        places=len(d),
    )
    if error > min(WORST_ROTATION_RAD, WORST_SCALE):
        raise AlignError(
            f"the map is uncertain: rotation +- {found.rotation_error_deg:.2f} degrees, scale +- {100 * error:.1f} %, "
            f"with {1e6 * found.residual_m:.1f} um left unexplained; start where more of the sample is in the beam"
        )
    return found


def nearest_quarter_turn(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one of the eight mountings (quarter turns, mirrored or not) that is nearest to a map, (2, 2)."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    mountings = [np.linalg.matrix_power(turn, k) @ np.diag([1.0, m]) for k in range(4) for m in (1.0, -1.0)]
    return max(mountings, key=lambda q: float(np.sum(q * matrix)))


def region_about(centre_px: tuple[float, float], shape: tuple[int, int], sensor: tuple[int, int]) -> Region:
    """The region of `shape` with its pixel n//2 on the centre, moved onto the sensor where it would leave it."""
    top, left = (
        int(np.clip(round(c) - n // 2, 0, whole - n)) for c, n, whole in zip(centre_px, shape, sensor, strict=True)
    )
    return Region(top, left, *shape)


def _set_region(session: Session, wanted: Region) -> Region:
    """The nearest region to the wanted one that the camera accepts: its increments are its own to tell."""
    camera = session.devices.camera
    rows, columns = camera.info.sensor_shape
    refused: LimitError | None = None
    for stride in STRIDES:
        top = min(round(wanted.top / stride) * stride, (rows - wanted.rows) // stride * stride)
        left = min(round(wanted.left / stride) * stride, (columns - wanted.columns) // stride * stride)
        try:
            return camera.set_region(Region(top, left, wanted.rows, wanted.columns))
        except LimitError as error:
            refused = error
    assert refused is not None
    raise refused


def _picture(session: Session, exposure_s: float, count: int, number: int) -> tuple[NDArray[np.float64], int]:
    """Mean of some frames without background and single bright pixels, and the next frame's number."""
    mean = session.mean_frame(exposure_s, count, number)
    border = np.concatenate([mean[:4].ravel(), mean[-4:].ravel(), mean[:, :4].ravel(), mean[:, -4:].ravel()])
    picture = mean - np.median(border)
    smooth = ndimage.median_filter(picture, 3)
    noise = 1.4826 * float(np.median(np.abs(border - np.median(border)))) + 1.0
    hot = picture - smooth > 8 * noise + 2 * np.maximum(smooth, 0)
    return np.where(hot, smooth, picture), number + count


def _pairs(stage_m: NDArray[np.float64], good: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of frames near to each other: up to three steps apart."""
    reach = max(LAGS) * STEP_M * 1.1
    return [(i, j) for k, i in enumerate(good) for j in good[k + 1 :] if np.hypot(*(stage_m[j] - stage_m[i])) < reach]
