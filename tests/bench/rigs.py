"""Sessions on simulated benches, without a terminal or a clock on the wall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.bench.prompt import Terminal
from app.bench.session import Interrupt, Session
from app.devices import open_devices
from app.profile import Profile, load_profile
from app.progress import Course


def changed(base: str, **changes: Any) -> Profile:
    """A shipped profile with `section__key=value` changed."""
    raw = load_profile(base).model_dump()
    for name, value in changes.items():
        section, key = name.split("__")
        raw[section][key] = value
    return Profile.model_validate(raw)


@contextmanager
def bench(profile: Profile, seed: int = 0, stream: int = 11, sample: str | None = None) -> Iterator[Session]:
    """An open session whose moves are confirmed already."""
    devices = open_devices(profile, seed, sample)
    with devices:
        yield Session(profile, profile, None, devices, Terminal(), Course(), Interrupt(), stream, True)
