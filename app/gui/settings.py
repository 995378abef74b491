"""What the window remembers between two starts. A bad file never keeps it from starting."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from PyQt5.QtCore import QStandardPaths

from recon.files.whole import whole

NAME = "window.json"
VARIABLE = "PTYCHOSCOPE_SETTINGS"


@dataclass(frozen=True)
class Settings:
    """Everything that is remembered.

    Attributes:
        theme: dark or light.
        geometry, layout: of the window and its docks, as Qt writes them, in base 64.
        folder: where files were last read or written.
        colours, scale: of the picture.
        jog_m: step of the jog buttons.
        live: whether live view was on.
    """

    theme: str = "dark"
    geometry: str = ""
    layout: str = ""
    folder: str = ""
    colours: str = "inferno"
    scale: str = "square root"
    jog_m: float = 5e-5
    live: bool = True


def default_path() -> Path:
    """The file in the user's folder for settings; PTYCHOSCOPE_SETTINGS names another."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    folder = QStandardPaths.writableLocation(QStandardPaths.GenericConfigLocation)
    return Path(folder) / "ptychoscope" / NAME


def load(path: Path) -> tuple[Settings, str]:
    """The settings in a file, and a line about what could not be used, "" when all could; never raises.

    What is missing, unknown or of the wrong kind is left at its default, each for itself.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings(), ""
    except (OSError, ValueError, RecursionError) as error:
        return Settings(), f"settings {path}: cannot be read ({type(error).__name__}); the window starts without them"
    if not isinstance(raw, dict):
        return Settings(), f"settings {path}: hold no settings; the window starts without them"
    settings, bad = Settings(), []
    known = {field.name: type(getattr(settings, field.name)) for field in fields(Settings)}
    for name, value in raw.items():
        kind = known.get(name)
        fits = kind is not None and (
            type(value) is kind or (kind is float and type(value) is int and not isinstance(value, bool))
        )
        if fits and _sensible(name, value):
            settings = replace(settings, **{name: value})
        else:
            bad.append(name)
    return settings, f"settings {path}: {', '.join(bad)} not understood and left out" if bad else ""


def save(path: Path, settings: Settings) -> str:
    """Write them, at once or not at all; a line about why it failed, or ""."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(json.dumps(asdict(settings), indent=1), encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return f"settings {path}: cannot be written ({why}); they are forgotten"
    return ""


def _sensible(name: str, value: Any) -> bool:
    if name == "theme":
        return value in ("dark", "light")
    if name == "jog_m":
        return 1e-9 <= value <= 1e-2
    return True
