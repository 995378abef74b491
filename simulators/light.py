"""The simulated beam and its shutter."""

from __future__ import annotations

from drivers.base import Facts, LightState, NotReadyError


class SimulatedLight:
    """A beam that can be blocked; it starts open. Implements `drivers.base.Light`."""

    def __init__(self) -> None:
        self._state = LightState.OPEN
        self._opened = False

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self._opened = False

    @property
    def state(self) -> LightState:
        return self._state

    def block(self) -> None:
        """Block the beam. Raises `NotReadyError` when closed."""
        self._switch(LightState.BLOCKED)

    def unblock(self) -> None:
        """Let the beam through. Raises `NotReadyError` when closed."""
        self._switch(LightState.OPEN)

    def describe(self) -> Facts:
        """What it simulates."""
        return {"model": "simulated beam", "state": self._state.value}

    def _switch(self, state: LightState) -> None:
        if not self._opened:
            raise NotReadyError("light", f"cannot become {state} because it is closed; open it first")
        self._state = state
