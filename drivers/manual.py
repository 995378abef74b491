"""A beam that a person blocks: asked to, and believed only when they say that they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from drivers.base import Facts, LightState, NotReadyError, OperatorNeeded

Ask = Callable[[str], bool]
"""Shows a request to a person and returns whether they confirmed it. Raises `OperatorNeeded` when nobody can answer."""
Changed = Callable[[LightState], None]
"""Told of every confirmed change."""


@runtime_checkable
class KnowsPresence(Protocol):
    """An `Ask` that can tell beforehand whether anybody could answer."""

    def present(self) -> bool:
        """Whether somebody is there; asks nothing."""
        ...


REQUESTS = {
    LightState.BLOCKED: "block the beam so that no light reaches the camera",
    LightState.OPEN: "let the beam through",
}


def nobody(request: str) -> bool:
    """The `Ask` of a program that nobody watches. Raises `OperatorNeeded`."""
    raise OperatorNeeded("light", f"somebody has to {request}, and nobody is there to be asked; use a terminal")


def _not_told(state: LightState) -> None:
    pass


class ManualLight:
    """The beam in a person's hands. Implements `drivers.base.Light`.

    Its state is unknown until somebody confirms one, and again when a request was not confirmed.

    Args:
        ask: how to reach the person.
        changed: told of every confirmed change.
    """

    def __init__(self, ask: Ask = nobody, changed: Changed = _not_told):
        self._ask = ask
        self._changed = changed
        self._state = LightState.UNKNOWN
        self._opened = False

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self._opened = False
        self._state = LightState.UNKNOWN

    @property
    def state(self) -> LightState:
        return self._state

    def ready(self) -> bool:
        """Whether somebody is there to be asked, as far as can be told without asking."""
        if isinstance(self._ask, KnowsPresence):
            return self._ask.present()
        return self._ask is not nobody

    def block(self) -> None:
        """Ask for the beam to be blocked, unless it is known to be. Raises `OperatorNeeded`, `NotReadyError`."""
        self._request(LightState.BLOCKED)

    def unblock(self) -> None:
        """Ask for the beam, unless it is known to be there. Raises `OperatorNeeded`, `NotReadyError`."""
        self._request(LightState.OPEN)

    def describe(self) -> Facts:
        """Who blocks the beam."""
        return {"model": "a person, asked to block and unblock the beam", "state": self._state.value}

    def _request(self, wanted: LightState) -> None:
        if not self._opened:
            raise NotReadyError("light", f"cannot become {wanted.value} because it is closed; open it first")
        if self._state is wanted:
            return
        self._state = LightState.UNKNOWN
        if not self._ask(REQUESTS[wanted]):
            raise OperatorNeeded(
                "light", f"the request to {REQUESTS[wanted]} was not confirmed; start again when it can be done"
            )
        self._changed(wanted)
        self._state = wanted
