"""When a question to a person is about a bench that is not there any more."""

from __future__ import annotations

from app.live.state import BenchState


def outdated(before: BenchState, now: BenchState) -> bool:
    """Whether what was asked at one snapshot must not be answered at the next: another bench, or it moves or moved.

    A short motion may fall between two looks; homing leaves its mark all the same.
    """
    same = now.profile is before.profile and now.known is before.known and now.kind is before.kind
    stage, earlier = now.stage, before.stage
    stands = stage.homed == earlier.homed and stage.device.health is earlier.device.health
    return not (same and stands and now.idle)
