"""A posterior that follows a scan: frame by frame, at the cost of the new frame and a few moves.

Each frame's photons are counted once. The draws from the posterior are weighed by the new frame and walk on, the modes
take a few steps, and the bank's scores add up. Whenever the frames have doubled since the last one, or the draws no
longer stand for the posterior, the bank is searched anew with all frames; `settled` does so at any time, and gives what
an estimate of all frames together gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon.dataset import Ptychogram
from recon.estimator import LatentEstimator
from recon.found import Found
from recon.manner import Manner
from recon.observation import Observation
from recon.posterior import Posterior
from recon.prepared import Prepared


@dataclass
class Tracker:
    """What one set of exposures has told so far.

    Attributes:
        estimator: searches and draws.
        plan: what all frames that may come need.
    """

    estimator: LatentEstimator
    plan: Prepared
    _data: list[tuple[list[int], Ptychogram]] = field(default_factory=list)
    _observation: Observation | None = None
    _scores: Tensor | None = None
    _found: Found | None = None
    _searched: int = 0

    @classmethod
    def of(
        cls,
        estimator: LatentEstimator,
        indices: NDArray[np.int64],
        exposures_s: NDArray[np.float64],
        dark_variance: NDArray[np.float32],
        mask: NDArray[np.bool_],
    ) -> Tracker:
        """For frames to come at points (N,) by index, with exposures (N,), on a sensor (H, W)."""
        return cls(estimator, estimator.ready(indices, exposures_s, dark_variance, mask))

    @property
    def frames(self) -> int:
        """Frames that have come."""
        return sum(len(part) for _, part in self._data)

    def add(self, data: Ptychogram) -> Posterior:
        """The posterior with more frames, each of which the plan holds.

        Raises:
            ValueError: a frame at a point or with an exposure that is not planned.
        """
        places = self._places(data)
        part = self.plan.select(places)
        in_bins = self._observation is not None and self._observation.counting == Manner.BINS
        more = self.estimator.observe(data, part, in_bins=in_bins, of=len(self.plan.points))
        self._data.append((places, data))
        if self._observation is None:
            self._observation, self._scores = more, self.estimator.scores(more, part)
        elif more.counting == self._observation.counting:
            self._observation = self._observation.joined(more)
            assert self._scores is not None
            self._scores = self._scores + self.estimator.scores(more, part)
        else:
            # A pixel too bright to be looked at on its own: from here on all frames are summed in bins.
            self._rebin()
            self._found = None
        found = None
        if self._found is not None and self.frames < 2 * self._searched:
            found = self.estimator.followed(self._observation, more, self._found)
        return self._searched_anew() if found is None else self._pictured(found)

    def settled(self) -> Posterior:
        """The posterior of all frames so far from a search anew.

        Raises:
            ValueError: no frame has come.
        """
        if self._observation is None:
            raise ValueError("no frame has come yet; add one")
        return self._searched_anew()

    def expected(self, image: NDArray) -> NDArray[np.float32]:
        """(H, W) electrons, all frames so far together, that an image (s, s) predicts."""
        places = [place for part, _ in self._data for place in part]
        return self.estimator.predicted(self.plan.operator.select(places), image)

    def _searched_anew(self) -> Posterior:
        assert self._observation is not None
        self._searched = self.frames
        return self._pictured(self.estimator.found(self._observation, scores=self._scores))

    def _pictured(self, found: Found) -> Posterior:
        assert self._observation is not None
        self._found = found
        return self.estimator.pictured(self._observation, found)

    def _rebin(self) -> None:
        self._observation, self._scores = None, None
        for places, data in self._data:
            part = self.plan.select(places)
            more = self.estimator.observe(data, part, in_bins=True, of=len(self.plan.points))
            scores = self.estimator.scores(more, part)
            self._observation = more if self._observation is None else self._observation.joined(more)
            self._scores = scores if self._scores is None else self._scores + scores

    def _places(self, data: Ptychogram) -> list[int]:
        """Where in the plan frames are."""
        places = []
        for k, seconds in zip(data.indices, data.exposures_s, strict=True):
            planned = [
                j
                for j, (point, exposure) in enumerate(self.plan.points)
                if point == int(k) and np.isclose(exposure, seconds, rtol=1e-6, atol=0)
            ]
            if not planned:
                known = sorted({exposure for _, exposure in self.plan.points})
                raise ValueError(
                    f"a frame at point {int(k)} of {seconds:g} s is not planned; "
                    f"planned are {len(self.plan.points)} frames of {', '.join(f'{t:g}' for t in known)} s"
                )
            places.append(planned[0])
        return places
