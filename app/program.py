"""The `ptychoscope` program: Ctrl-C is heard before anything else is loaded."""

from __future__ import annotations

from app.stopping import hear_from_the_start


def main() -> None:
    """The program."""
    hear_from_the_start()
    from app.cli import main as run

    run()
