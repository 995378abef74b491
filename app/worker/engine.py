"""The one place where the worker computes: calibration, latent estimates, conventional images. Loads torch.

Images on the way follow the scan frame by frame (`recon.tracker`); the final one of an exposure is estimated anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.calibration import for_run, software, storable
from app.latent import Decoder, arrays_of, estimator, settings_of
from app.task import cleaned, lit_part
from app.worker.book import RunBook
from app.worker.light import Light, Look
from app.worker.message import Calibrated, Epoch, Estimate, Key, Pixels
from app.worker.source import calibrated
from recon.calibrate import CalibrationSettings, EpochReport, calibrate
from recon.dataset import DatasetError, Ptychogram
from recon.device import keep_memory, pick_device
from recon.estimator import LatentEstimator
from recon.nextframe import Candidates, lit
from recon.operator import Drawing
from recon.posterior import Posterior
from recon.reconstruct import CONVENTIONAL, reconstruct_pixels
from recon.tracker import Tracker

THUMBNAIL = 160
"""Pixels of a picture of probe or object, at most, each way."""
BLOCKS = 40
"""Blocks of a picture of the camera, at most, each way."""


@dataclass
class _Track:
    """An exposure that is followed: under which light, what follows it, the frames that it has been given, and where
    the next one could be taken."""

    light: bytes
    tracker: Tracker
    taken: dict[Key, float]
    candidates: Candidates | None = None


class Engine:
    """See above; in one thread.

    Args:
        device: of torch: "auto", "cpu", "cuda".

    Raises:
        DeviceError: it cannot be had.
    """

    def __init__(self, device: str = "auto"):
        keep_memory()
        self.device = pick_device(device)
        self.software = {name: str(version) for name, version in software().items()}
        self._loaded: tuple[Look, Decoder] | None = None
        self._latent: tuple[object, LatentEstimator] | None = None
        self._tracks: dict[float, _Track] = {}

    # ---- Calibration -------------------------------------------------------------------------------------------------

    def calibrate(self, book: RunBook, report: Callable[[Epoch], None], stop: Callable[[], bool]) -> Calibrated:
        """The bright scan of a run, as `ptychoscope calibrate` does it. Raises `DatasetError`."""
        data, run = book.bright_scan(), book.begin.run
        settings = for_run(
            CalibrationSettings(),
            book.profile.stage.repeatability_m,
            data.geometry.pixel_size_m,
            book.begin.illumination_m,
        )

        def told(epoch: EpochReport) -> None:
            probe, obj = epoch.pictures()
            report(
                Epoch(
                    run,
                    epoch.epoch,
                    epoch.epochs,
                    epoch.stage,
                    epoch.loss,
                    epoch.distance_m,
                    epoch.position_change_px,
                    thinned(probe, THUMBNAIL),
                    thinned(obj, THUMBNAIL),
                )
            )

        found = storable(calibrate(data, settings, device=self.device, report=told, stop=stop))
        return calibrated(run, found, book.bright_times())

    # ---- Latent images -----------------------------------------------------------------------------------------------

    def load(self, look: Look) -> str:
        """Have the decoder ready; returns what a person should know of it, or "". Raises `DecoderError`."""
        if self._loaded is not None and self._loaded[0] == look:
            return ""
        decoder = Decoder.load(look.decoder, asker="the live image")
        decoder.rehearse()
        self._loaded, self._latent, self._tracks = (look, decoder), None, {}
        return decoder.note

    def begin_anew(self) -> None:
        """Another run: nothing of the one before is followed."""
        self._tracks = {}

    def prepare(self, look: Look, light: Light, data: Ptychogram) -> None:
        """Make what frames at these places will need, before they come. Raises `DecoderError`, `DatasetError`."""
        _, latent = self._under(look, light)
        _tracker(latent, lit_part(data, light.window))

    def estimate(
        self, book: RunBook, look: Look, light: Light, exposure_s: float, data: Ptychogram, planned: int, final: bool
    ) -> Estimate:
        """The posterior of these frames. A final one is that of `ptychoscope reconstruct`, to the last bit.

        Raises: `DecoderError`, `DatasetError`.
        """
        begin = time.monotonic()
        decoder, latent = self._under(look, light)
        ahead = None
        if final:
            # It owes nothing to the order in which frames came, and its sensor is asked once more.
            part, _ = cleaned(data, light.window)
            found = latent.estimate(part)
            predicted = latent.expected(part, found.mean)
            self._tracks.pop(exposure_s, None)
        else:
            part = lit_part(data, light.window)
            found, predicted = self._followed(book, latent, light, exposure_s, part)
            if look.ahead:
                ahead = self._ahead(latent, exposure_s, part, found)
        factor = -(-max(part.geometry.shape) // BLOCKS)
        settings = settings_of(found, decoder) | {"field_m": look.field_m, "pose_prior": look.pose}
        if ahead is not None:
            settings["ahead"] = ahead
        return Estimate(
            run=book.begin.run,
            exposure_s=exposure_s,
            frames=len(data),
            planned=planned,
            final=final,
            decoder=look.decoder,
            pose_prior=look.pose,
            lent=light.lent,
            seconds=time.monotonic() - begin,
            numbers=json.dumps(_finite(settings)),
            measured=in_blocks(part.frames.sum(0), factor),
            predicted=in_blocks(predicted, factor),
            variance=in_blocks(part.dark_variance * np.float32(len(data)), factor),
            block_m=factor * data.geometry.pixel_size_m,
            **arrays_of(found),
        )

    def _followed(
        self, book: RunBook, latent: LatentEstimator, light: Light, exposure_s: float, lit: Ptychogram
    ) -> tuple[Posterior, NDArray[np.float32]]:
        """The posterior of all frames of an exposure that are here, from where it was before the newest ones came.

        And the electrons that it predicts of them, together.
        """
        here = book.taken(exposure_s)
        track = self._tracks.get(exposure_s)
        lasting = track is not None and track.light == light.key and track.taken.items() <= here.items()
        if track is None or not lasting:
            plan = lit_part(book.expected(exposure_s), light.window)
            # What the camera made of the exposure that it was asked for.
            plan = replace(plan, exposures_s=np.full(len(plan), lit.exposures_s[0]))
            track = self._tracks[exposure_s] = _Track(light.key, _tracker(latent, plan), {})
        if not np.allclose(lit.exposures_s, lit.exposures_s[0], rtol=1e-6, atol=0):
            alone = latent.estimate(lit)
            return alone, latent.expected(lit, alone.mean)
        new = [number for number, key in enumerate(here) if key not in track.taken]
        try:
            found = track.tracker.add(lit.select(np.array(new))) if new else track.tracker.settled()
        except BaseException:
            # Half taken in: next time from the beginning.
            self._tracks.pop(exposure_s, None)
            raise
        track.taken = here
        return found, track.tracker.expected(found.mean)

    def _ahead(
        self, latent: LatentEstimator, exposure_s: float, part: Ptychogram, found: Posterior
    ) -> dict[str, list[float]] | None:
        """Nats that one more frame of an exposure would tell, at each point of its plan; None: unknown."""
        track = self._tracks.get(exposure_s)
        if track is None:
            return None
        plan = track.tracker.plan
        if track.candidates is None:
            try:
                track.candidates = Candidates.build(
                    plan.operator, plan.light, part.dark_variance, part.mask, part.geometry.pixel_size_m
                )
            except ValueError as error:
                raise DatasetError(f"{part.name}: what one more frame would tell cannot be said: {error}") from None
        worth = track.candidates.worth(lit(found, latent.scene), np.array([plan.points[0][1]]))
        return {"points": [point for point, _ in plan.points], "information": worth.information[:, 0].tolist()}

    def _under(self, look: Look, light: Light) -> tuple[Decoder, LatentEstimator]:
        """The estimator under this light; it keeps what was prepared as long as the light is the same."""
        self.load(look)
        assert self._loaded is not None
        decoder = self._loaded[1]
        if self._latent is None or self._latent[0] != light.key:
            made = estimator(decoder, light.illumination, look.field_m, look.pose, self.device)
            self._latent = (light.key, made)
        return decoder, self._latent[1]

    # ---- Conventional images -----------------------------------------------------------------------------------------

    def pixels(
        self,
        book: RunBook,
        light: Light,
        exposure_s: float,
        data: Ptychogram,
        field_m: float,
        samples: int,
        stop: Callable[[], bool],
    ) -> Pixels:
        """Free pixels from these frames, on the decoder's square. Raises `DatasetError`."""
        lit = lit_part(data, light.window)
        found = reconstruct_pixels(lit, light.illumination, CONVENTIONAL, device=self.device, stop=stop)
        image = on_square(np.abs(found.object), data.geometry.pixel_size_m, field_m, samples)
        return Pixels(book.begin.run, exposure_s, len(data), image)


def _tracker(latent: LatentEstimator, plan: Ptychogram) -> Tracker:
    """For frames at the points of a plan; a later visit to a point needs nothing more."""
    _, first = np.unique(plan.indices, return_index=True)
    first = np.sort(first)
    return Tracker.of(latent, plan.indices[first], plan.exposures_s[first], plan.dark_variance, plan.mask)


def on_square(obj: NDArray, pixel_m: float, field_m: float, samples: int) -> NDArray[np.float32]:
    """(samples, samples) amplitude on a decoder's square of an object on the camera's pitch: means of its pixels."""
    axis = (np.arange(len(obj), dtype=np.float64) - len(obj) // 2) * pixel_m
    weights = Drawing(samples, field_m).weights(axis, 0)
    total = np.maximum(weights.sum(0), 1e-12)
    image: NDArray[np.float32] = (weights.T @ obj @ weights / np.outer(total, total)).astype(np.float32)
    return image


def thinned(wave: NDArray[np.complex64], most: int) -> NDArray[np.complex64]:
    """Every k-th pixel of a field (n, n), at most so many."""
    step = -(-len(wave) // most)
    return np.ascontiguousarray(wave[::step, ::step])


def in_blocks(light: NDArray, factor: int) -> NDArray[np.float32]:
    """Sums over blocks of `factor` pixels each way; what is left at the far edges is left out."""
    rows, columns = (n // factor for n in light.shape)
    part = light[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return part.sum((1, 3), dtype=np.float32)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
