"""What a decoder misses of this very object, found with its latents: the posterior in much light.

The object is x = D(h) + f: the decoder's image and a residual field beside it. In the dark nothing of f is seen, and
its variance is simply added to the posterior's. In light a likelihood without f makes up for it by latents that no
object of the class has, and is sure of them; with it the latents stay where the class is, f becomes part of the image,
and what is left uncertain is what the frames leave so.

f has no correlations: what a trained decoder leaves is white up to the finest detail but for a factor of three. Its
tails are heavy (single strokes are missed by far, most pixels by little), so that every cell of the image has a
variance of its own: a scale mixture, Student's distribution of `FREEDOM` degrees, about the misfit of the class
(`recon.decoders.misfit`) times a strength. Both follow from the frames by expectation maximisation (Tipping 2001, JMLR
1, 211, with a proper prior). That distribution is 650 nats an image nearer to what `mnist` leaves of unseen digits than
a normal one of the image's own strength.

Given the variances, latents and field are one Gauss-Newton problem, and light makes its posterior nearly normal: draws
are Laplace's. Of the field only those directions are looked for that the frames tell about (the likelihood-informed
subspace of Spantini and others 2015, SIAM J. Sci. Comput. 37, A2451): some hundred where it is first seen. In the
others it keeps its prior, which `Missed.left` adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from recon.latent import PRECISION
from recon.observation import Observation
from recon.scene import Scene

FREEDOM = 3.0
"""Degrees of freedom of what is missed in a cell: 2 to 4 fit what `mnist` misses of unseen digits equally well."""
CELLS = 32
"""Cells of the field along each axis of the image, at most; what is missed in finer detail is left uncertain."""
LEAST = 0.01
"""Of the mean misfit, from which on a cell is looked at: a quarter of them, which hold 99.9 % of what is missed."""
TELLING = 0.03
"""Of a direction's information, in units of its prior, from which on it is looked for."""
ROUNDS = 4
"""Times that the variances are found anew, the first for the strength alone."""
FIRST_STEPS, STEPS = 40, 15
"""Gauss-Newton steps of the first round, and of each other one, at most."""
FASTEST = 4.0
"""Factor by which the strength changes in one round, at most: the model that says so is a quadratic one."""
TOLERANCE = 0.3
"""Nats left to gain, by the quadratic model, when a round has converged: a thousandth for each direction or so."""
EXPECTATIONS = 12
"""Steps of expectation maximisation of a round."""


@dataclass(frozen=True)
class Field:
    """Where something may be missed, and how much.

    An amplitude is missed in one way, a complex object in two, along its transmission and across it.

    Attributes:
        cells: (c s^2, K) orthonormal directions of images, c = 2 for real and imaginary parts.
        misfit: (K,) variance along each for objects of the class.
        shares: (w s^2, K) of the variance of each cell that each pixel has, in each of w ways.
        rest: (w s^2,) variance that no cell holds: finer detail, and where next to nothing is missed.
    """

    cells: Tensor
    misfit: Tensor
    shares: Tensor
    rest: Tensor

    @classmethod
    def of(cls, misfit: Tensor, ways: Tensor | None = None) -> Self:
        """From the misfit (s, s) of an amplitude; or (2, s, s) in the two `ways` (2, 2, s, s) of a complex object.

        The first two axes of `ways` are the way, then real and imaginary part.
        """
        each = misfit[None] if ways is None else misfit
        through = torch.ones_like(each)[:, None] if ways is None else ways
        size = misfit.shape[-1]
        side = max(1, -(-size // CELLS))
        count = -(-size // side)
        number = torch.arange(size, device=misfit.device) // side
        cell = (number[:, None] * count + number).flatten()
        inside = torch.nn.functional.one_hot(cell, count**2).to(misfit)
        held = inside.sum(0)
        mean = (each.flatten(1) @ inside) / held
        chosen = mean > LEAST * mean.mean()
        chosen.flatten()[mean.argmax()] = True
        cells = (through.flatten(2)[..., None] * (inside / held.sqrt())).flatten(1, 2)
        shares = torch.eye(len(each), device=misfit.device)[:, :, None, None] * (inside / held)
        kept = torch.where(chosen, mean, 0.0)
        return cls(
            torch.cat([cells[way][:, chosen[way]] for way in range(len(each))], 1),
            mean[chosen],
            torch.cat([shares[way][..., chosen[way]].flatten(0, 1) for way in range(len(each))], 1),
            (each.flatten(1) - (kept / held) @ inside.T).clamp_min(0).flatten(),
        )


@dataclass(frozen=True)
class Missed:
    """A joint posterior of latents and residual field, about one mode.

    Attributes:
        theta: (1, size) of the mode.
        within: where the field was looked for.
        amounts: (K,) the field along its cells, of the mode.
        variance: (K,) of it, as the frames have it.
        field: (s, s) of the mode, as it lies in the light, in the object's pose; (2, s, s) of a complex object.
        factor: (size + k, size + k) Cholesky factor of the precision of theta and of k directions of the field.
        directions: (c s^2, k) those of unit variance.
        left: (w, s, s) variance of the field in all other directions, in each of its ways.
        strength: of the field, over the misfit of the class.
        log_posterior: of the mode.
        log_evidence: nats, Laplace, against an empty field of view; with the variances as they are, less what it costs
            that they differ from cell to cell (the variational bound, exact for cells that nothing is told about).
        converged: whether the last step of the last round was below the tolerance.
        iterations: Gauss-Newton steps.
    """

    theta: Tensor
    within: Field
    amounts: Tensor
    variance: Tensor
    field: Tensor
    factor: Tensor
    directions: Tensor
    left: Tensor
    strength: float
    log_posterior: float
    log_evidence: float
    converged: bool
    iterations: int

    def draws(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Theta (n, size), and the fields (n, s, s) or (n, 2, s, s) that go with them."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(len(self.factor), count, generator=generator, dtype=torch.float64)
        away = torch.linalg.solve_triangular(self.factor.T, normal.to(self.factor), upper=True).T.to(self.theta)
        size = self.theta.shape[1]
        fields = (away[:, size:] @ self.directions.T).view(count, *self.field.shape)
        return self.theta + away[:, :size], self.field + fields


@dataclass(frozen=True)
class _At:
    """A place of the problem.

    Attributes:
        theta: (1, size).
        along: (k,) the field along some directions of unit prior.
        value: log posterior without constants.
        pull, precision: its gradient (size + k,), and minus its Hessian by Gauss-Newton.
    """

    theta: Tensor
    along: Tensor
    value: float
    pull: Tensor
    precision: Tensor


@dataclass(frozen=True)
class _Problem:
    """Latents, and a field along `directions` (c s^2, k) with a unit normal prior."""

    observation: Observation
    scene: Scene
    directions: Tensor

    def at(self, theta: Tensor, along: Tensor) -> _At:
        images, jacobian = self.scene.drawn(theta)
        whole = images + (self.directions @ along).view_as(images)
        seen = self.observation.terms(whole, torch.cat((jacobian, self.directions[None]), 2))
        prior, gradient, precision = self.scene.prior_terms(theta)
        own = self.scene.size
        pull, worth = seen.gradient[0].double(), seen.information[0].double()
        pull[:own] += gradient[0]
        pull[own:] -= along
        worth[:own, :own] += precision[0]
        worth.diagonal()[own:] += 1
        value = float(seen.value[0].double() + prior[0]) - 0.5 * float(along.double().square().sum())
        return _At(theta, along, value, pull, worth)

    def climbed(self, theta: Tensor, along: Tensor, steps: int) -> tuple[_At, bool, int]:
        """From there by damped Gauss-Newton steps; whether they converged, and how many they were."""
        at, damping, own = self.at(theta, along), 1e-3, self.scene.size
        for taken in range(1, steps + 1):
            damped = at.precision + torch.diag(damping * at.precision.diagonal())
            step = torch.cholesky_solve(at.pull[:, None], torch.linalg.cholesky(damped))[:, 0]
            tried = self.at(at.theta + step[None, :own].to(theta), at.along + step[own:].to(theta))
            grain = PRECISION * abs(at.value)
            promised = 0.5 * float(step @ at.pull)
            if tried.value >= at.value - grain:
                at, damping = tried, max(0.2 * damping, 1e-9)
            else:
                damping *= 5
            if promised < TOLERANCE + grain:
                return at, True, taken
        return at, False, steps


@dataclass(frozen=True)
class _Told:
    """What frames tell about latents and all cells, about one place: a quadratic model of the log-likelihood.

    Attributes:
        pull: (size + K,) gradient of it at theta there and no field, with that of theta's prior.
        worth: (size + K, size + K) information, with the precision of theta's prior.
        size: of theta.
    """

    pull: Tensor
    worth: Tensor
    size: int

    @classmethod
    def at(
        cls,
        observation: Observation,
        scene: Scene,
        field: Field,
        theta: Tensor,
        amounts: Tensor,
        near: _Told | None = None,
    ) -> _Told:
        """About theta (1, size) and amounts (K,) of the field; the information may be that of a place `near` by."""
        images, jacobian = scene.drawn(theta)
        whole, along = images + (field.cells @ amounts).view_as(images), torch.cat((jacobian, field.cells[None]), 2)
        _, gradient, precision = scene.prior_terms(theta)
        own = scene.size
        if near is None:
            seen = observation.terms(whole, along)
            pull, worth = seen.gradient[0].double(), seen.information[0].double()
            worth[:own, :own] += precision[0]
        else:
            pull, worth = (observation.slope(whole)[1].flatten(1)[:, None] @ along)[0, 0].double(), near.worth
        pull = pull + worth[:, own:] @ amounts.double()
        pull[:own] += gradient[0]
        return cls(pull, worth, own)

    def variances(self, misfit: Tensor, variance: Tensor, strength: float, *, each: bool) -> tuple[Tensor, float]:
        """(K,) of the cells and their strength, likelier than those given; of `each` cell, or of all in proportion."""
        lowest, highest = strength / FASTEST, strength * FASTEST
        for _ in range(EXPECTATIONS):
            precision = self.worth.clone()
            precision.diagonal()[self.size :] += 1 / variance.double()
            covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
            mean = covariance @ self.pull
            square = (mean.square() + covariance.diagonal())[self.size :].to(misfit) / misfit
            certainty = (FREEDOM + 1) / (FREEDOM + square / strength) if each else torch.ones_like(square)
            strength = min(max(float((certainty * square).mean()), lowest), highest)
            variance = strength * misfit / certainty
        return variance, strength

    def directions(self, field: Field, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(c s^2, k) that the frames tell about, of unit variance, and (K, k) how amounts lie along them.

        What is told is what is left when the latents have their share. There is at least one direction.
        """
        own, root = self.size, variance.double().sqrt()
        lower = torch.linalg.cholesky(self.worth[:own, :own])
        half = torch.linalg.solve_triangular(lower, self.worth[:own, own:], upper=False)
        told, rotation = torch.linalg.eigh(root[:, None] * (self.worth[own:, own:] - half.T @ half) * root)
        chosen = told > TELLING
        chosen[-1] = True
        rotation = rotation[:, chosen]
        return field.cells @ (root[:, None] * rotation).to(field.cells), rotation / root[:, None]


def look_beside(
    observation: Observation, scene: Scene, theta: Tensor, field: Field, before: Missed | None = None
) -> Missed:
    """The joint posterior about a mode of the latents alone, theta (1, size).

    Args:
        scene: draws by the decoder itself.
        field: where something may be missed.
        before: of a part of the frames, from which to go on in one round: with its theta and its field.
    """
    if before is not None:
        theta, field = before.theta, before.within
    amounts, variance, strength = torch.zeros_like(field.misfit), field.misfit, 1.0
    if before is not None:
        amounts, variance, strength = before.amounts, before.variance, before.strength
    rounds = range(ROUNDS) if before is None else range(ROUNDS - 1, ROUNDS)
    iterations = 0
    told: _Told | None = None
    for turn in rounds:
        # After the first round the place changes little, and with it the information, which is most of the work.
        told = _Told.at(observation, scene, field, theta, amounts, told if turn > 1 else None)
        if turn > 0:
            variance, strength = told.variances(field.misfit, variance, strength, each=turn > 1)
        directions, along = told.directions(field, variance)
        problem = _Problem(observation, scene, directions)
        at, converged, taken = problem.climbed(
            theta, (along.T @ amounts.double()).to(theta), STEPS if turn else FIRST_STEPS
        )
        theta, iterations = at.theta, iterations + taken
        amounts = field.cells.T @ (directions @ at.along)
    factor = torch.linalg.cholesky(at.precision)
    certainty = (strength * field.misfit / variance).double()
    scattered = 0.5 * FREEDOM * float((certainty - 1 - certainty.log()).sum())
    spread = -float(factor.diagonal().log().sum()) - scattered
    shape = scene.images(theta).shape[1:]
    left = (variance - (field.cells.T @ directions).square().sum(1)).clamp_min(0)
    return Missed(
        theta=theta,
        within=field,
        amounts=amounts,
        variance=variance,
        field=(directions @ at.along).view(shape),
        factor=factor,
        directions=directions,
        left=(field.shares @ left + strength * field.rest).view(-1, *shape[-2:]),
        strength=strength,
        log_posterior=at.value,
        log_evidence=at.value + 0.5 * scene.size * math.log(2 * math.pi) + spread,
        converged=converged,
        iterations=iterations,
    )
