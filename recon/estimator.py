"""The latent estimator of one calibration: it keeps what it needs between exposures, and answers with a posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.bins import Bins
from recon.chains import Sample, effective, follow, sample
from recon.chord import Chord
from recon.dataset import Ptychogram
from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.package import DecoderPackage
from recon.decoders.sketch import Drawer
from recon.decoders.whitening import Whitening
from recon.events import Events
from recon.foreign import Foreign, foreign_beside, foreign_evidence
from recon.found import Found
from recon.illumination import Illumination
from recon.latent import CHUNK, Bank, LatentSettings, Modes, refine, search, settle
from recon.manner import Manner, read_noise_e
from recon.missed import Field, Missed, look_beside
from recon.observation import Observation
from recon.operator import CameraOperator, Drawing
from recon.posterior import Posterior
from recon.prepared import Prepared
from recon.scene import Nuisances, Scene
from recon.verdict import judge

BANK = 4096
"""Images of the bank: enough that one of them lies in the right basin at any dose that tells anything."""
EXACT_STEPS = 12
"""Gauss-Newton steps of the decoder itself, from where the sketch's search ended."""
LAST_STEPS = 10
"""The same, from there, with its Jacobian at that place."""
MOST_CHORDS = 8
"""Times that the decoder's Jacobian is computed, at most."""
FOLLOW_STEPS = LatentSettings(iterations=3)
"""Gauss-Newton steps of each mode after one more frame."""
FAINT = 15.0
"""Nats of evidence behind the best mode at which one is not looked at by the decoder itself."""
SEEN = 3.0
"""Nats by which the frames must say that the decoder misses something before that is looked for."""
MOST_MISSED = 16.0
"""Strength of what is missed from which on it is none of the class's own: 0.2 to 1.2 for digits, 4 to 8 for masks."""
MOST_PREPARED = 8
"""Sets of positions and exposures that are kept ready; tens of megabytes each, the oldest goes first."""
FEW, TOLD, WIDEST = 100.0, 0.1, 0.75
"""Draws of the bank that must be left, by their weights, for the prior to propose draws; share of them from which on it
proposes most, and how many then."""

KNOWN = Nuisances()
USUAL = LatentSettings()


@dataclass
class LatentEstimator:
    """Search and posterior under one calibration, with one decoder.

    It keeps the bank, and what `prepare` made for positions and exposures it has seen; a repeated exposure costs its
    photons only.

    Attributes:
        package: the decoder.
        companion: its prior, sketch and misfit.
        light: the illumination; it holds no object.
        field_m: side of the square that the decoder's image covers.
        scene: drawn by the sketch.
        exact: the same, drawn by the decoder.
        bank: draws from the prior.
        settings: how hard to search.
        device: of all tensors.
        kind: of operator that the scene's images take.
        sketched: whether chains walk by the sketch, which draws quickly, or by the decoder itself.
        looks_beside: whether what the decoder misses of an object is looked for in the light.
    """

    kind: ClassVar[type[CameraOperator]] = CameraOperator
    sketched: ClassVar[bool] = True
    looks_beside: ClassVar[bool] = True

    package: DecoderPackage
    companion: Companion
    light: Illumination
    field_m: float
    scene: Scene
    exact: Scene
    bank: Bank
    settings: LatentSettings
    device: str
    _prepared: dict[bytes, Prepared] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        package: DecoderPackage,
        companion: Companion,
        light: Illumination,
        field_m: float,
        *,
        nuisances: Nuisances = KNOWN,
        settings: LatentSettings = USUAL,
        bank: int = BANK,
        device: str = "cpu",
    ) -> Self:
        """Draws the bank; a second or so.

        Raises: as `drawer`.
        """
        package, companion = package.to(device), companion.to(device)
        scene = Scene(cls.drawer(package, companion.sketch), companion.prior, nuisances, field_m)
        exact = replace(scene, drawer=cls.drawer(package, DirectDrawer.of(package)))
        drawn = Bank.draw(scene, bank)
        return cls(package, companion, light, field_m, scene, exact, drawn, settings, device)

    @classmethod
    def drawer(cls, package: DecoderPackage, drawer: Drawer) -> Drawer:
        """What draws the scene, of what draws as the decoder does.

        Raises:
            ValueError: the decoder draws a phase too: `recon.complexlatent` is for those.
        """
        if package.channels != 1:
            raise ValueError(
                f"decoder {package.name!r} draws an amplitude and a phase; this estimator has amplitudes only"
            )
        return drawer

    def amplitudes(self, images: Tensor) -> Tensor:
        """(n, s, s) of the scene's images, which here are amplitudes."""
        return images

    def field(self, image: Tensor) -> Field:
        """Where the decoder may miss something beside one of the scene's images (s, s)."""
        return Field.of(self.companion.misfit.of(image))

    def phase_misfit(self, amplitude: Tensor) -> Tensor | None:
        """(s, s) variance, rad^2, of real phases about what the decoder draws; None where it draws none."""
        return None

    @property
    def samples(self) -> int:
        """Side s of the decoder's image."""
        return self.package.architecture.image_size

    def prepare(self, data: Ptychogram) -> Prepared:
        """What frames at these points with these exposures on this sensor need; kept, so that it is made once."""
        return self.ready(data.indices, data.exposures_s, data.dark_variance, data.mask)

    def ready(
        self,
        indices: NDArray[np.int64],
        exposures_s: NDArray[np.float64],
        dark_variance: NDArray[np.float32],
        mask: NDArray[np.bool_],
    ) -> Prepared:
        """`prepare`, before there are frames: for points (N,) by index, exposures (N,), and a sensor (H, W)."""
        key = b"".join(np.ascontiguousarray(part).tobytes() for part in (indices, exposures_s, dark_variance, mask))
        known = self._prepared.get(key)
        if known is not None:
            return known
        prepared = Prepared.build(
            self.kind,
            self.light,
            indices,
            exposures_s,
            dark_variance,
            mask,
            Drawing(self.samples, self.field_m),
            self.bank.images,
        )
        while len(self._prepared) >= MOST_PREPARED:
            del self._prepared[next(iter(self._prepared))]
        self._prepared[key] = prepared
        return prepared

    def observe(
        self, data: Ptychogram, prepared: Prepared | None = None, *, in_bins: bool = False, of: int | None = None
    ) -> Observation:
        """The frames as a likelihood: in the manner that was planned, or in bins where light or somebody asks for them.

        `prepared` is what these very frames need, where it is at hand; `of` is of how many frames they are a part.
        """
        prepared = prepared or self.prepare(data)
        manner = Manner.BINS if in_bins else prepared.manner.met(data)
        if manner is Manner.EVENTS and prepared.watch is not None:
            return prepared.watch.count(data)
        likelihood = manner.summed(read_noise_e(data.dark_variance, data.mask))
        return Bins.build(data, prepared.operator, prepared.light, likelihood, of)

    def scores(self, observation: Observation, prepared: Prepared) -> Tensor:
        """(n,) log-likelihood of the bank's images, from enough of the data to tell where to search."""
        # Clipped pixels are not taken out of what is known before: it chooses starts and nothing else.
        dark = prepared.dark if isinstance(observation, Events) else None
        known = None if dark is None else dark.sum(0)
        return self.bank.scores(observation.quick(), known)

    def expected(self, data: Ptychogram, image: NDArray) -> NDArray[np.float32]:
        """(H, W) electrons, all frames together, that an image (s, s) predicts."""
        return self.predicted(self.prepare(data).operator, image)

    def predicted(self, operator: CameraOperator, image: NDArray) -> NDArray[np.float32]:
        """The same of frames whose operator is at hand."""
        lit = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(self.device)
        fields = torch.view_as_real(operator.fields(lit[None])[:, 0])
        return fields.square().sum((0, 3)).cpu().numpy()

    def estimate(self, data: Ptychogram, starts: NDArray | None = None) -> Posterior:
        """The posterior of all frames together; `starts` (n, size) join the bank's best."""
        prepared = self.prepare(data)
        observation = self.observe(data, prepared)
        more = None if starts is None else torch.from_numpy(starts).to(self.device)
        return self.pictured(observation, self.found(observation, more, self.scores(observation, prepared)))

    def posterior(self, observation: Observation, starts: NDArray | None = None) -> Posterior:
        """The posterior of an observation."""
        more = None if starts is None else torch.from_numpy(starts).to(self.device)
        return self.pictured(observation, self.found(observation, more))

    def found(
        self,
        observation: Observation,
        starts: Tensor | None = None,
        scores: Tensor | None = None,
        *,
        beside: bool = True,
    ) -> Found:
        """Search and draws; `scores` (n,) of the bank, where they are known.

        `beside` says whether to look for what the decoder misses where that is seen.
        """
        settings = self.settings
        if observation.counting != Manner.EVENTS:
            # Light makes the posterior narrow and nearly normal, and each of its images dear.
            settings = replace(settings, proposals=settings.proposals // 3, chains=settings.chains // 2)
        more = () if starts is None else (starts,)
        found = search(observation, self.scene, self.bank, settings, more, scores)
        # The best one too where single precision knows no difference of so few nats.
        likely = found.log_evidence >= found.log_evidence.max() - FAINT
        top = found.select(likely.nonzero()[: settings.exact_modes, 0])
        # The decoder's own modes, with its Jacobians where the sketch ended, and again where they themselves end. In
        # much light a chord does not lead all the way: it is drawn anew.
        modes, chord = top, self._chord(top)
        for turn in range(MOST_CHORDS):
            steps = replace(settings, iterations=EXACT_STEPS if turn == 0 else LAST_STEPS)
            modes = refine(observation, replace(self.exact, drawer=chord), modes.theta, steps)
            if turn and bool(modes.converged[0]):
                break
            chord = self._chord(modes)
        if beside and self.looks_beside and observation.counting != Manner.EVENTS:
            seen = self._foreign(observation, modes, chord)
            if max(seen.own) > SEEN:
                whole = self._with_missed(observation, modes, chord, found.iterations)
                if whole is not None:
                    return whole
        drawn = sample(observation, self._walked, self.exact, modes, settings, self._wide(observation, scores))
        return Found(modes, chord, drawn, found.iterations)

    def _foreign(self, observation: Observation, modes: Modes, chord: Chord, misfit: Tensor | None = None) -> Foreign:
        """Evidence for something beside the highest mode; `misfit` (s, s) is the mode's own unless given."""
        top = modes.theta[modes.log_posterior.argmax()][None]
        images, jacobian = replace(self.exact, drawer=chord).drawn(top)
        amplitude = self.amplitudes(images)[0] / self.scene.flux(top).sqrt()
        _, _, precision = self.exact.prior_terms(top)
        missed = self.companion.misfit.of(amplitude) if misfit is None else misfit
        return foreign_evidence(observation, images[0], jacobian[0], precision[0], missed, self.phase_misfit(amplitude))

    def _foreign_beside(self, observation: Observation, missed: Missed) -> tuple[float, float]:
        """The same where what the decoder misses was found: nats, and the strength of what is foreign."""
        images, jacobian = self.exact.drawn(missed.theta)
        amplitude = self.amplitudes(images)[0] / self.scene.flux(missed.theta).sqrt()
        _, gradient, precision = self.exact.prior_terms(missed.theta)
        return foreign_beside(
            observation,
            images[0],
            jacobian[0],
            (gradient[0], precision[0]),
            missed.field,
            self.companion.misfit.of(amplitude),
            self.phase_misfit(amplitude),
        )

    def _with_missed(
        self, observation: Observation, modes: Modes, chord: Chord, iterations: int, before: Missed | None = None
    ) -> Found | None:
        """The highest mode with what the decoder misses of the object, and draws of both.

        None where there is no such place, or anything would do: of a foreign object latents alone have the word.
        """
        top = modes.theta[modes.log_posterior.argmax()][None]
        missed = look_beside(observation, self.exact, top, self.field(self.exact.images(top)[0]), before)
        if not missed.converged or missed.strength >= MOST_MISSED:
            return None
        theta, fields = missed.draws(2 * self.settings.chains, self.settings.seed + 9)
        images = self.exact.drawer.images(self.exact.zeta(theta))
        alike = theta.new_zeros(len(theta))
        drawn = Sample(
            theta,
            images,
            alike + missed.log_posterior,
            alike.long(),
            step=1.0,
            log_evidence=missed.log_evidence,
            efficiency=1.0,
            accepted=1.0,
            moved=1.0,
        )
        return Found(modes, chord, drawn, iterations + missed.iterations, missed=missed, fields=fields)

    def _wide(self, observation: Observation, scores: Tensor | None) -> float:
        """Share of the proposals that the prior itself makes: more, the less the frames tell its draws apart."""
        if scores is None or effective(scores) < FEW:
            return 0.0
        # The scores may be those of a part of the data.
        some = self.bank.images[: len(self.bank.images) // 8].float()
        told = torch.cat([observation.value(part) for part in some.split(CHUNK)])
        return min(WIDEST, effective(told) / len(told) * WIDEST / TOLD)

    def followed(self, observation: Observation, more: Observation, before: Found) -> Found | None:
        """After `more` frames, which `observation` holds too, from what was found before; None: search anew."""
        modes = settle(observation, replace(self.exact, drawer=before.chord), before.modes, FOLLOW_STEPS)
        if before.missed is not None:
            found = self._with_missed(observation, modes, before.chord, before.iterations, before.missed)
            return None if found is None else replace(found, followed=before.followed + 1)
        gained = torch.cat([more.value(part) for part in before.lit(self.scene).split(CHUNK)])
        settings = replace(self.settings, seed=self.settings.seed + 100 + before.followed)
        drawn = follow(observation, self._walked, self.exact, modes, before.drawn, gained, settings)
        if drawn is None:
            return None
        return Found(modes, before.chord, drawn, before.iterations, before.followed + 1)

    @property
    def _walked(self) -> Scene:
        """By which chains walk."""
        return self.scene if self.sketched else self.exact

    def _chord(self, modes: Modes) -> Chord:
        """The decoder, with its Jacobians at some modes."""
        dims = self.scene.prior.size
        precision = torch.cholesky_inverse(modes.factors)[:, :dims, :dims]
        return Chord.at(self.scene.drawer, self.exact.drawer, modes.theta[:, :dims], precision)

    def pictured(self, observation: Observation, found: Found) -> Posterior:
        """Pictures and numbers of what was found in an observation."""
        modes, drawn, missed = found.modes, found.drawn, found.missed
        theta = drawn.theta
        zeta, flux, pose = self.scene.zeta(theta), self.scene.flux(theta), self.scene.pose(theta)
        decoded = self.amplitudes(self.scene.transmitted(drawn.images, theta))
        decoder_mean = decoded.mean(0)
        misfit = self.companion.misfit.of(decoder_mean)
        # Of an object, not of the mean over objects, whose greys no object has and a decoder misses most.
        of_each = self.companion.misfit.of(decoded).mean(0)
        images, left, spread = decoded, of_each, decoded.var(0)
        if missed is not None:
            images = self.amplitudes(found.lit(self.scene)) / flux.sqrt()[:, None, None]
            left, spread = missed.left[0], images.var(0)
            # Nothing amplifies the light; how far draws leave these bounds is part of how uncertain they are.
            images = images.clamp(0, 1)
        mean = images.mean(0)
        joint = self.scene.prior.joint(zeta).softmax(1).mean(0)
        labels = self.scene.prior.labels
        classes = {label: float(joint[labels == label].sum()) for label in self.scene.prior.classes}
        best = int(modes.log_posterior.argmax())
        by_evidence = modes.log_evidence.argsort(descending=True, stable=True)
        foreign = self._foreign(observation, modes, found.chord, misfit)
        if missed is None:
            top = modes.theta[best : best + 1]
            whole = replace(self.exact, drawer=found.chord).images(top)[0]
            mode = self.amplitudes(whole[None])[0] / self.scene.flux(top).sqrt()
            others = self._amplitudes_of(modes.theta[by_evidence], found.chord)
            evidence: list[float] = modes.log_evidence[by_evidence].tolist()
            converged = bool(modes.converged[best])
        else:
            whole = self.exact.images(missed.theta)[0] + missed.field
            mode = (self.amplitudes(whole[None])[0] / self.scene.flux(missed.theta).sqrt()).clamp(0, 1)
            others, evidence = mode[None], [missed.log_evidence]
            odds, strength = self._foreign_beside(observation, missed)
            foreign = replace(foreign, log_odds=odds, strength=strength)
            converged = missed.converged
        scores, counted = observation.frame_scores(whole), observation.counted(whole)
        typicality = self._typicality(theta)
        pattern = _excess(observation.pattern_scores(whole))
        verdict = judge(
            images=images,
            prior_mean=self.amplitudes(self.bank.images.float()).mean(0),
            misfit=of_each,
            scatter=self.companion.scatter,
            log_evidence=drawn.log_evidence,
            classes=classes,
            foreign=foreign,
            frame_scores=scores,
            electrons=counted,
            typicality=typicality,
            pattern=pattern,
            left=None if missed is None else left,
        )
        latents = Whitening.of(self.package).latents(zeta.mean(0)[None])[0]

        def out(values: Tensor) -> NDArray[np.float32]:
            return values.float().cpu().numpy()

        return Posterior(
            mean=out(mean),
            deviation=out((spread + left).sqrt()),
            spread=out(spread.sqrt()),
            decoder_mean=out(decoder_mean),
            misfit=out(misfit.sqrt()),
            missed=0.0 if missed is None else missed.strength,
            mode=out(mode),
            samples=images.half().cpu().numpy(),
            theta=out(theta),
            latent=out(latents),
            classes=classes,
            log_evidence=drawn.log_evidence,
            foreign=foreign,
            typicality=typicality,
            pattern=pattern,
            frame_scores=out(scores),
            flux=(float(flux.mean()), float(flux.std())),
            pose=out(pose.mean(0)),
            pose_sigma=out(pose.std(0)),
            modes=len(others),
            mode_images=others.half().cpu().numpy(),
            mode_log_evidence=tuple(evidence),
            converged=converged,
            iterations=found.iterations,
            efficiency=drawn.efficiency,
            accepted=drawn.accepted,
            moved=drawn.moved,
            electrons=counted,
            verdict=verdict,
            followed=found.followed,
            counting=observation.counting,
        )

    def _amplitudes_of(self, theta: Tensor, chord: Chord) -> Tensor:
        """(m, s, s) what parameters (m, size) draw beside a chord's modes, in their pose, without the flux."""
        lit = self.amplitudes(replace(self.exact, drawer=chord).images(theta))
        return lit / self.scene.flux(theta).sqrt()[:, None, None]

    def _typicality(self, theta: Tensor) -> float:
        """Mean log prior density of samples (n, size), in standard deviations above the mean of the bank's draws."""
        mean, deviation = self._usual
        return (float(self.scene.log_prior(theta).mean()) - mean) / deviation

    @cached_property
    def _usual(self) -> tuple[float, float]:
        """Mean and deviation of the log prior density of draws from the prior."""
        density = self.scene.log_prior(self.bank.theta)
        return float(density.mean()), float(density.std())


def _excess(scores: Tensor) -> float:
    """Mean square of scores (N,) less one, in the standard deviations that it has for normal ones."""
    return float(scores.square().mean() - 1) * math.sqrt(len(scores) / 2)
