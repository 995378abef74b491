"""The dark that is subtracted from the view: it holds for one exposure and one region, and for no other bench."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.gui.widgets import quantity
from app.live.journal import Journal
from app.live.order import Look
from app.live.viewer import View, Viewer
from drivers.base import Region

SAME = 1e-3
"""Exposures that differ by less, relatively, are one: cameras report what their clocks made of it."""


@dataclass(frozen=True)
class Terms:
    """What a dark holds for.

    Attributes:
        exposure_s: of its frames.
        region: that they were read from.
    """

    exposure_s: float
    region: Region

    @classmethod
    def of(cls, look: Look) -> Terms:
        return cls(look.exposure.exposure_s, look.info.region)

    def hold_for(self, other: Terms) -> bool:
        return self.region == other.region and math.isclose(self.exposure_s, other.exposure_s, rel_tol=SAME)


class Dark:
    """See above. The viewer takes and subtracts it; this says when.

    Args:
        viewer: subtracts.
        journal: told when none could be taken.
    """

    def __init__(self, viewer: Viewer, journal: Journal):
        self._viewer, self._journal = viewer, journal
        self._dark: NDArray[np.float32] | None = None
        self._terms: Terms | None = None
        self._taking = False
        self._after = 0

    @property
    def wanted(self) -> bool:
        """Whether there is one, or one is being taken."""
        return self._dark is not None or self._taking

    def take(self, after: int) -> None:
        """Take one from the frames behind this number."""
        self.drop()
        self._taking, self._after = True, after
        self._viewer.take_dark()

    def drop(self) -> None:
        """Have none."""
        self._taking = False
        self._dark = self._terms = None
        self._viewer.take_dark(0)
        self._use(None)

    def fits(self, view: View) -> bool:
        """Whether a view has nothing subtracted that was taken for other frames; follows what the frames are."""
        terms = Terms.of(view.look)
        if self._taking:
            self._take_from(view, terms)
        holds = self._terms is not None and self._terms.hold_for(terms)
        if not self._taking:
            self._use(self._dark if holds else None)
        return holds or not view.picture.subtracted

    def words(self, view: View) -> str:
        """What a person has to know about it; "" when there is nothing."""
        if view.picture.subtracted:
            return "dark subtracted"
        if self._viewer.dark_left:
            return f"dark: {self._viewer.dark_left} frames to come"
        if self._dark is None or self._terms is None or self._terms.hold_for(Terms.of(view.look)):
            return ""
        if self._terms.region != view.look.info.region:
            return "dark NOT subtracted: it is of another region"
        return f"dark NOT subtracted: it is of {quantity(self._terms.exposure_s, 's')}"

    def _take_from(self, view: View, terms: Terms) -> None:
        if view.number <= self._after:
            return
        if self._terms is None:
            self._terms = terms
        elif not self._terms.hold_for(terms):
            self.drop()
            self._journal.warning(
                "camera: exposure or region changed while the dark was taken; none is subtracted, take it again"
            )
            return
        taken = self._viewer.settings.dark
        if taken is not None:
            self._dark, self._taking = taken, False

    def _use(self, dark: NDArray[np.float32] | None) -> None:
        if self._viewer.settings.dark is not dark:
            self._viewer.settings = replace(self._viewer.settings, dark=dark)
