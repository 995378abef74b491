"""Options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def finite_number(value: Any) -> Any:
    """Refuses NaN and infinity, which a range of an option lets pass. A callback of numbers, or of lists of them."""
    return _checked(value, "", lambda number: True)


def above_zero(value: Any) -> Any:
    """Refuses zero and what is below it as well."""
    return _checked(value, " above 0", lambda number: number > 0)


def _checked(value: Any, limit: str, allowed: Callable[[float], bool]) -> Any:
    for number in value if isinstance(value, list | tuple) else (value,):
        if number is not None and not (math.isfinite(number) and allowed(number)):
            raise typer.BadParameter(f"{number:g} is not a finite number{limit}; give one that is")
    return value


ProfileOption = Annotated[str, typer.Option(help="Name of a shipped profile, or a .toml file.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything simulated.")]
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
    float | None, typer.Option(callback=above_zero, help="m, where a foreign file does not say or errs.")
]
DistanceOption = Annotated[float | None, typer.Option(callback=above_zero, help="Object to camera, m, likewise.")]
PixelSizeOption = Annotated[float | None, typer.Option(callback=above_zero, help="Camera pitch, m, likewise.")]
FocusOption = Annotated[
    float | None,
    typer.Option("--focus-to-sample", callback=above_zero, help="Cone beams: focus to sample, m (Fresnel scaling)."),
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
        callback=above_zero, help="Illumination's diameter, m; a run knows it, else the frames' mean starts it."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where torch works: auto (the GPU when there is one), cpu, cuda.")]
