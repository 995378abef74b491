"""`ptychoscope import` and `export`: other programs' data as CXI, and runs as files that other programs open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import UsageError
from app.options import (
    CornerOption,
    DistanceOption,
    FarFieldOption,
    FocusOption,
    JsonOption,
    PixelSizeOption,
    WavelengthOption,
    above_zero,
    within,
)
from recon.limits import CONVERSION, READ_NOISE

if TYPE_CHECKING:
    from recon.dataset import Ptychogram
    from recon.files.exchange import Solution
    from recon.files.results import StoredCalibration


def export_run(path: Path, out: Path, form: str, exposure_s: float | None, nominal: bool) -> dict[str, Any]:
    """Write the bright scan or one exposure of the evaluation series for other programs.

    Args:
        path: a run.
        out: the file to write.
        form: one of `ExchangeFormat`.
        exposure_s: which exposure; None takes the calibration scan.
        nominal: positions and distance as the stage and the ruler had them, although the run is calibrated.

    Raises:
        DatasetError, UsageError: one line.
    """
    from app.reporting import say
    from app.runs import entry_of_exposure
    from app.unfinished import warning_of
    from recon.files.exchange import ExchangeFormat, export
    from recon.files.read import open_run

    formats = [f.value for f in ExchangeFormat]
    if form not in formats:
        raise UsageError(f"format {form!r}: known are {', '.join(formats)}")
    with open_run(path) as run:
        entry = 1 if exposure_s is None else entry_of_exposure(run, exposure_s)
        data, illumination_m = run.ptychogram(entry), run.illumination_m
        points = run.ptychogram(1).indices if entry > 1 else data.indices
    data, solution, stored = _as_calibrated(path, data, points, illumination_m, nominal)
    if stored is not None and (warning := warning_of(path)):
        say(warning)
    export(data, out, ExchangeFormat(form), solution)
    return _values(out, data) | {
        "format": form,
        "calibrated": stored is not None,
        "calibration_interrupted": stored is not None and stored.interrupted,
    }


def _as_calibrated(
    path: Path, data: Ptychogram, points: Any, illumination_m: float, nominal: bool
) -> tuple[Ptychogram, Solution, StoredCalibration | None]:
    """The data with corrected positions and distance, what else the calibration found, and itself, if there is one."""
    from recon.files.exchange import Solution
    from recon.files.results import load_calibration
    from recon.files.reuse import whole_calibration

    if nominal or load_calibration(path) is None:
        return data, Solution(illumination_m=illumination_m), None
    stored = whole_calibration(path)
    place = {int(index): k for k, index in enumerate(points)}
    corrected = stored.positions_m[[place[int(index)] for index in data.indices]]
    geometry = replace(data.geometry, distance_m=stored.distance_m)
    solution = Solution(stored.probe, stored.object, illumination_m)
    return replace(data, positions_m=corrected, geometry=geometry), solution, stored


def _values(out: Path, data: Ptychogram) -> dict[str, Any]:
    rows, columns = data.geometry.shape
    return {
        "file": str(out),
        "frames": len(data),
        "rows": rows,
        "columns": columns,
        "wavelength_m": data.geometry.wavelength_m,
        "distance_m": data.geometry.distance_m,
        "pixel_size_m": data.geometry.pixel_size_m,
        "bytes": out.stat().st_size,
    }


def export_command(
    run: Annotated[Path, typer.Argument(help="A run.")],
    out: Annotated[Path, typer.Option(help="The file to write; its ending must be one that the readers know.")],
    form: Annotated[
        str, typer.Option("--format", help="cxi (cdtools, ptychodus, ptypy), ptylab, or npz (plain arrays).")
    ] = "cxi",
    exposure: Annotated[
        float | None,
        typer.Option(callback=above_zero, help="An exposure of the evaluation series, s; without it the bright scan."),
    ] = None,
    nominal: Annotated[
        bool, typer.Option("--nominal", help="Positions and distance before calibration, although there is one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's frames, in electrons, for other programs; a calibrated run with its corrected positions."""
    from app.reporting import report

    report(export_run(run, out, form, exposure, nominal), as_json)


def import_command(
    source: Annotated[Path, typer.Argument(help="HDF5, CXI, PtyLab or npz of somebody else's; it is only read.")],
    out: Annotated[Path, typer.Option(help="The CXI file to write.")],
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=PLACE",
            help="HDF5 of no known kind: where things are. NAME is frames, positions (or y and x), background, mask, "
            "exposures; wavelength, energy_ev, distance, pixel_size, whose PLACE may be a number. Repeat it.",
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="DATASET=NUMBER", help="With --map: only frames with that number there.")
    ] = None,
    order: Annotated[str, typer.Option(help="With --map: columns of the positions, yx or xy.")] = "yx",
    unit: Annotated[str, typer.Option(help="With --map: of the positions: m, mm, um or px (camera pixels).")] = "m",
    reverse: Annotated[
        bool, typer.Option("--reverse", help="With --map: positions are the sample's, against the illumination's.")
    ] = False,
    good: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="With --map: the mask's value at good pixels: CXI 0, ptypy 1.")
    ] = 0,
    focus_to_sample: FocusOption = None,
    wavelength: WavelengthOption = None,
    distance: DistanceOption = None,
    pixel_size: PixelSizeOption = None,
    far_field: FarFieldOption = False,
    zero_in_corner: CornerOption = False,
    electrons_per_count: Annotated[
        float, typer.Option(callback=within(CONVERSION), help="Conversion of the file's counts.")
    ] = 1.0,
    read_noise: Annotated[
        float, typer.Option(callback=within(READ_NOISE), help="Noise without light, electrons rms.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Other people's data as a CXI file that `calibrate` and other programs read. The source is never changed."""
    from app.reporting import report
    from recon.files.exchange import ExchangeFormat, export
    from recon.files.imports import Overrides, read_any
    from recon.files.mapping import FieldMap, PositionOrder, PositionUnit

    if order not in list(PositionOrder):
        raise UsageError(f"--order {order!r}: known are {', '.join(PositionOrder)}")
    if unit not in list(PositionUnit):
        raise UsageError(f"--unit {unit!r}: known are {', '.join(PositionUnit)}")
    mapping = None
    if fields:
        mapping = FieldMap.parse(fields, PositionOrder(order), PositionUnit(unit), reverse, good, where)
    elif where or reverse or good or (order, unit) != ("yx", "m"):
        raise UsageError("import: --where, --order, --unit, --reverse and --good go with --map")
    overrides = Overrides(
        wavelength_m=wavelength,
        distance_m=distance,
        pixel_size_m=pixel_size,
        focus_to_sample_m=focus_to_sample,
        far_field=far_field,
        zero_in_corner=zero_in_corner,
        electrons_per_count=electrons_per_count,
        read_noise_e=read_noise,
        fields=mapping,
    )
    data = read_any(source, overrides)
    export(data, out, ExchangeFormat.CXI)
    report(_values(out, data), as_json)
