"""Which decoders come with the program, for whoever must not load torch: a window that offers them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

PRETRAINED = Path(__file__).with_name("pretrained")


def amplitude_decoders() -> list[str]:
    """Names of those that draw an amplitude alone, as `recon.decoders.package.installed_packages` has them."""
    found = PRETRAINED.glob("*.safetensors")
    return sorted(path.stem for path in found if not path.stem.endswith(".prior") and _draws_amplitude(path))


def _draws_amplitude(path: Path) -> bool:
    """What a package's file says of its channels. A broken one is listed: loading it says in one line what is wrong."""
    try:
        with safe_open(path, framework="np") as handle:
            return bool(json.loads((handle.metadata() or {})["architecture"]).get("channels", 1) == 1)
    except (SafetensorError, OSError, KeyError, AttributeError, TypeError, ValueError):
        return True
