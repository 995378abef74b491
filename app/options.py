"""Options that several commands have."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from app.errors import UsageError
from recon.limits import DIAMETER, DISTANCE, MOST_SEED, PIXEL_SIZE, WAVELENGTH, Range

MOST_EPOCHS = 100_000
"""Of anything that is iterated: days, on any machine."""


def finite_number(value: Any) -> Any:
    """Refuses NaN and infinity, which a range of an option lets pass. A callback of numbers, or of lists of them."""
    return _checked(value, "", lambda number: True)


def above_zero(value: Any) -> Any:
    """Refuses zero and what is below it as well."""
    return _checked(value, " above 0", lambda number: number > 0)


def within(limit: Range) -> Callable[[Any], Any]:
    """A callback that refuses what lies outside, and NaN."""

    def check(value: Any) -> Any:
        for number in value if isinstance(value, list | tuple) else (value,):
            if number is not None and not limit.holds(number):
                raise typer.BadParameter(limit.refusal(number))
        return value

    return check


def given(context: typer.Context, names: Iterable[str] | None = None) -> list[str]:
    """Options that the command line itself gives, as they are written there: of those parameters, or of all."""
    found = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if (names is None or name in names) and source is not None and source.name == "COMMANDLINE":
            found.append(max(parameter.opts, key=len))
    return found


def refuse_given(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raise `UsageError` where the command line gives one of these options, which nobody would read, and say why."""
    superfluous = given(context, names)
    if superfluous:
        raise UsageError(f"{context.info_name}: {', '.join(superfluous)}: {why}; leave that out")


def require_one_start(probe: Path | None, diameter_m: float | None) -> None:
    """Raise `UsageError` for two probes to begin with."""
    if probe is not None and diameter_m is not None:
        raise UsageError(
            f"--probe {probe} and --probe-diameter {diameter_m:g} are two probes to begin with; leave one of them out"
        )


def _checked(value: Any, limit: str, allowed: Callable[[float], bool]) -> Any:
    for number in value if isinstance(value, list | tuple) else (value,):
        if number is not None and not (math.isfinite(number) and allowed(number)):
            raise typer.BadParameter(f"{number:g} is not a finite number{limit}; give one that is")
    return value


def _tell_version(wanted: bool) -> None:
    """The versions of what results depend on, and the end. Nothing is imported to know them."""
    if not wanted:
        return
    found = {"Python": platform.python_version()}
    for name in ("torch", "numpy", "h5py"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    try:
        own = metadata.version("ptychoscope")
    except metadata.PackageNotFoundError:
        own = "(not installed)"
    typer.echo(f"ptychoscope {own} ({', '.join(f'{name} {version}' for name, version in found.items())})")
    raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Versions of program and libraries.")
]
ProfileOption = Annotated[str, typer.Option(help="Name of a shipped profile, or a .toml file.")]
SeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything simulated.")]
OrderSeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Order of the frames.")]
ObjectOption = Annotated[
    str | None,
    typer.Option(
        "--object", help="Simulated: digit:4[:SEED], mnist:17, idx:FILE:17, a picture or .npy; relief:digit:4: phase."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line, the last on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Moves are confirmed: do not ask.")]
CharacterisationOption = Annotated[
    Path | None, typer.Option(help="What was measured of this bench; default: the profile's.")
]
# What a file of somebody else's lacks or has wrong.
WavelengthOption = Annotated[
    float | None, typer.Option(callback=within(WAVELENGTH), help="m, where a foreign file does not say or errs.")
]
DistanceOption = Annotated[float | None, typer.Option(callback=within(DISTANCE), help="Object to camera, m, likewise.")]
PixelSizeOption = Annotated[float | None, typer.Option(callback=within(PIXEL_SIZE), help="Camera pitch, m, likewise.")]
FocusOption = Annotated[
    float | None,
    typer.Option(
        "--focus-to-sample", callback=within(DISTANCE), help="Cone beams: focus to sample, m (Fresnel scaling)."
    ),
]
FarFieldOption = Annotated[
    bool, typer.Option("--far-field", help="Frames are Fraunhofer patterns; positions in pixels count the object's.")
]
CornerOption = Annotated[
    bool, typer.Option("--zero-in-corner", help="Far field: zero frequency is in the frames' corner, not their middle.")
]
ProbeOption = Annotated[
    Path | None, typer.Option("--probe", help="A file with a probe to begin with, npz (`probe`) or CXI.")
]
ProbeDiameterOption = Annotated[
    float | None,
    typer.Option(
        callback=within(DIAMETER), help="Illumination's diameter, m; a run knows it, else the frames' mean starts it."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where torch works: auto (the GPU when there is one), cpu, cuda.")]
