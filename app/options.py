"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ProfileOption = Annotated[str, typer.Option(help="Name of a shipped profile, or a .toml file.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything simulated.")]
ObjectOption = Annotated[
    str | None, typer.Option("--object", help="Simulated: digit:4[:SEED], mnist:17, idx:FILE:17 or a picture file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line, the last on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Moves are confirmed: do not ask.")]
CharacterisationOption = Annotated[
    Path | None, typer.Option(help="What was measured of this bench; default: the profile's.")
]
DeviceOption = Annotated[str, typer.Option(help="Where torch works: auto (the GPU when there is one), cpu, cuda.")]
