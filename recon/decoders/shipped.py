"""Which decoders come with the program, for whoever must not load torch: a window that offers them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

PRETRAINED = Path(__file__).with_name("pretrained")
SUFFIX = ".safetensors"


def amplitude_decoders() -> list[str]:
    """Names of those that draw an amplitude alone, as `recon.decoders.package.installed_packages` has them."""
    found = PRETRAINED.glob("*.safetensors")
    return sorted(path.stem for path in found if not path.stem.endswith(".prior") and _draws_amplitude(path))


def decoder_problem(name: str) -> str:
    """What keeps a decoder, a shipped one's name or a path, from being loaded, as far as its header tells; or ""."""
    path = Path(name) if name.endswith(SUFFIX) else PRETRAINED / f"{name}{SUFFIX}"
    if not name or not path.is_file():
        have = ", ".join(sorted(p.stem for p in PRETRAINED.glob(f"*{SUFFIX}") if not p.stem.endswith(".prior")))
        return f"decoder {name!r} does not exist; installed: {have}; or give a {SUFFIX} path"
    try:
        with safe_open(path, framework="np") as handle:
            if "architecture" not in (handle.metadata() or {}):
                return f"decoder {name!r}: {path} holds no decoder; give a package that `train` wrote"
    except (SafetensorError, OSError) as error:
        return f"decoder {name!r}: {path} is not a readable safetensors file ({' '.join(str(error).split())})"
    return ""


def _draws_amplitude(path: Path) -> bool:
    """What a package's file says of its channels. A broken one is listed: loading it says in one line what is wrong."""
    try:
        with safe_open(path, framework="np") as handle:
            return bool(json.loads((handle.metadata() or {})["architecture"]).get("channels", 1) == 1)
    except (SafetensorError, OSError, KeyError, AttributeError, TypeError, ValueError):
        return True
