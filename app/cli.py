"""The command line. Each command imports what it needs when it is called: a scan never waits for torch."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.errors import UsageError, run_guarded

app = typer.Typer(
    help="Optical ptychography bench: scan, calibrate, and recover objects from a handful of photons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProfileOption = Annotated[str, typer.Option(help="Name of a shipped profile, or a .toml file.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything simulated.")]
ObjectOption = Annotated[
    str | None, typer.Option("--object", help="digit:4[:SEED], mnist:17, idx:FILE:17 or a picture file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line, the last on stdout.")]


def main() -> None:
    """The `ptychoscope` program."""
    sys.exit(run_guarded(lambda: app(standalone_mode=False)))


def say(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def report(values: dict[str, Any], as_json: bool) -> None:
    """The result of a command on stdout: one JSON line, or one line per value."""
    if as_json:
        typer.echo(json.dumps(finite(values), allow_nan=False))
    else:
        for name, value in values.items():
            typer.echo(f"{name}: {f'{value:.6g}' if isinstance(value, float) else value}")


def finite(value: Any) -> Any:
    """The value with every float that is not finite replaced by None, for JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return finite(value.item())
    return value


@app.command()
def check(
    profile: ProfileOption = "quick",
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a profile would do, and whether it can. Nothing moves."""
    from app.check import check_profile
    from app.profile import load_profile

    values, findings = check_profile(load_profile(profile), seed, sample)
    for finding in findings:
        say(f"{finding.severity}: {finding.message}")
    report(values, as_json)


@app.command()
def scan(
    profile: ProfileOption = "quick",
    seed: SeedOption = 0,
    sample: ObjectOption = None,
    out: Annotated[Path | None, typer.Option(help="The run file to write, .h5 or .hdf5.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Complete this interrupted run; it knows all the rest.")] = None,
    abort_after: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a scan into a file, or complete an interrupted one. Ctrl-C aborts and leaves a file that can be resumed."""
    from app.acquire.command import run_scan

    if (out is None) == (resume is None):
        raise UsageError("scan: give either --out FILE for a new run or --resume FILE for an interrupted one")
    report(run_scan(profile, seed, sample, out, resume, abort_after), as_json)


if __name__ == "__main__":
    main()
