"""Which decoder? The evidence of each, for the same readings of the same pixels.

A `LatentEstimator` looks where its own prior expects light, and its evidence is one for those pixels. Evidences may
only be compared where they speak of the same data: here all decoders look where any expects light, through the same
thresholds, and in the same manner, photon by photon, pixel by pixel or in bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from recon.bins import Bins
from recon.dataset import Ptychogram
from recon.estimator import LatentEstimator
from recon.events import Watch
from recon.manner import Manner, read_noise_e
from recon.observation import LightMap, Observation
from recon.operator import CameraOperator
from recon.posterior import Posterior


@dataclass(frozen=True)
class Ranked:
    """A decoder's place.

    Attributes:
        name: of the decoder.
        log_evidence: nats, against an empty field of view.
        probability: of this decoder among those compared, all equally likely before any light.
        posterior: its estimate.
    """

    name: str
    log_evidence: float
    probability: float
    posterior: Posterior


def ranked(
    estimators: Sequence[LatentEstimator],
    data: Ptychogram,
    report: Callable[[int, str], None] = lambda _done, _name: None,
    stop: Callable[[], bool] = lambda: False,
    alike: Alike | None = None,
) -> list[Ranked]:
    """The decoders by evidence, the best first; those that were done when somebody stopped, at least one.

    `report` is told how many are done, and the last one's name; `alike` may be kept for more frames of the same kind.

    Raises:
        ValueError: no estimator is given, or their squares or devices differ.
    """
    if not estimators:
        raise ValueError("no decoder to compare")
    if len({(e.field_m, e.device) for e in estimators}) > 1:
        raise ValueError("decoders can be compared on one square of the object and one device only")
    found: list[tuple[str, Posterior]] = []
    alike = alike or Alike.prepared(estimators, data)
    for estimator, observation in zip(estimators, alike.observed(data), strict=True):
        found.append((estimator.package.name, estimator.posterior(observation)))
        report(len(found), estimator.package.name)
        if stop():
            break
    top = max(posterior.log_evidence for _, posterior in found)
    total = sum(math.exp(posterior.log_evidence - top) for _, posterior in found)
    places = [
        Ranked(name, posterior.log_evidence, math.exp(posterior.log_evidence - top) / total, posterior)
        for name, posterior in found
    ]
    return sorted(places, key=lambda place: -place.log_evidence)


@dataclass(frozen=True)
class Alike:
    """What several decoders need to look at the same pixels of frames at the same points and exposures.

    Attributes:
        operators: of each.
        light: where any of them expects light.
        manner: of looking at frames, unless one is brighter than that allows.
        watches: for events, thresholds of each, the same ones; none otherwise.
    """

    operators: list[CameraOperator]
    light: LightMap
    manner: Manner
    watches: list[Watch]

    @classmethod
    def prepared(cls, estimators: Sequence[LatentEstimator], data: Ptychogram) -> Alike:
        """For frames like these."""
        prepared = [estimator.prepare(data) for estimator in estimators]
        operators, light = [p.operator for p in prepared], together([p.light for p in prepared])
        manner = Manner.planned(read_noise_e(data.dark_variance, data.mask), float(light.mean.max()))
        if manner is not Manner.EVENTS:
            return cls(operators, light, manner, [])
        device = operators[0].probe.device
        variance, mask = torch.from_numpy(data.dark_variance).to(device), torch.from_numpy(data.mask).to(device)
        return cls(operators, light, manner, [Watch.build(operator, light, variance, mask) for operator in operators])

    def observed(self, data: Ptychogram) -> Iterator[Observation]:
        """Each decoder's view of the frames, one after another."""
        manner = self.manner.met(data)
        if manner is Manner.EVENTS:
            yield from (watch.count(data) for watch in self.watches)
            return
        likelihood = manner.summed(read_noise_e(data.dark_variance, data.mask))
        for operator in self.operators:
            yield Bins.build(data, operator, self.light, likelihood)


def together(lights: Sequence[LightMap]) -> LightMap:
    """Where any of them expects light: their mean over the largest of their squares of blocks."""
    widest = max(lights, key=lambda light: light.mean.shape[1])
    total = torch.zeros_like(widest.mean)
    for light in lights:
        first = [(a - b) // light.side for a, b in zip(light.corner, widest.corner, strict=True)]
        count = light.mean.shape[1]
        total[:, first[0] : first[0] + count, first[1] : first[1] + count] += light.mean
    return replace(widest, mean=total / len(lights))
