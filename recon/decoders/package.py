"""A decoder package: one safetensors file with the network, the statistics of its latents and its training record.

Loading never executes code: safetensors holds numbers only, and the architecture is looked up by name.

Tensors: `encoder.*` and `decoder.*` (half precision; the encoder ends at the decoder's latents, the linear chain folded
in), `latent.mean` (d,), `latent.eigenvalues` (d,) descending, `latent.eigenvectors` (d, d) in columns, and
`linear.singular_values` (d,) of the folded chain. Metadata (JSON): `architecture`, `training`.
"""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recon.decoders import layers as _layers  # noqa: F401  (registers its architecture)
from recon.decoders.architecture import DecoderArchitecture, architecture_of
from recon.decoders.network import Autoencoder, ComplexArchitecture, in_channels
from recon.files.whole import whole

FORMAT = "ptychoscope-decoder-1"
COMPANION_SUFFIX = ".prior.safetensors"
"""What the file beside a package ends in that holds its prior (`recon.decoders.companion`)."""
PRETRAINED = Path(__file__).parent / "pretrained"
STATISTICS_BATCH = 1000


class DecoderError(Exception):
    """A decoder package is missing or unusable; the message names the file and the remedy."""


@dataclass(frozen=True)
class DecoderPackage:
    """A pretrained autoencoder with the statistics of its latents.

    Attributes:
        name: the package's name (the file's stem).
        architecture: shapes of the network.
        encoder: images (n, c, s, s) to latents (n, d), the linear chain folded in; None for a decoder without one.
        decoder: latents (n, d) to images (n, c, s, s) in 0..1.
        latent_mean: (d,) mean latent of the training images (Eq. 2 of the paper).
        latent_eigenvalues: (d,) variances along the principal axes, descending.
        latent_eigenvectors: (d, d) the principal axes, in columns.
        linear_singular_values: (d,) of the folded linear chain; ones where there is none.
        training: record of the training: source, settings, validation PSNR, versions.
        sha256: digest of the file, stored with every result made with it.
    """

    name: str
    architecture: DecoderArchitecture
    encoder: nn.Module | None
    decoder: nn.Module
    latent_mean: Tensor
    latent_eigenvalues: Tensor
    latent_eigenvectors: Tensor
    linear_singular_values: Tensor
    training: dict[str, Any]
    sha256: str

    @property
    def channels(self) -> int:
        """Of the images: 1, an amplitude, or 2, an amplitude and a phase."""
        return self.architecture.channels

    @property
    def phase_rad(self) -> float:
        """Phase, in rad, of a second channel of 1; raises `DecoderError` where there is none."""
        if not isinstance(self.architecture, ComplexArchitecture):
            raise DecoderError(f"decoder {self.name!r}: draws an amplitude without a phase")
        return self.architecture.phase_rad

    def effective_rank(self, threshold: float = 1e-3) -> int:
        """Number of singular values of the latent covariance (variances) above `threshold` of the largest.

        The paper's Fig. 3(A) reads 22 there for all of MNIST and 13 for the fours.
        """
        return int((self.latent_eigenvalues > threshold * self.latent_eigenvalues[0]).sum())

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, d) of images (n, s, s), or (n, 2, s, s), in 0..1; raises `DecoderError` without an encoder."""
        if self.encoder is None:
            raise DecoderError(
                f"decoder {self.name!r}: holds no encoder, so images have no latents; store one with it "
                "(`recon.decoders.ownmodule.write_layers`)"
            )
        latents: Tensor = self.encoder(in_channels(images))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, s, s), or (n, 2, s, s), in 0..1 of latents (n, d); differentiable."""
        images: Tensor = self.decoder(latents)
        return images.squeeze(1) if self.channels == 1 else images

    def to(self, device: torch.device | str) -> DecoderPackage:
        """A copy on `device`."""
        return replace(
            self,
            encoder=None if self.encoder is None else deepcopy(self.encoder).to(device),
            decoder=deepcopy(self.decoder).to(device),
            latent_mean=self.latent_mean.to(device),
            latent_eigenvalues=self.latent_eigenvalues.to(device),
            latent_eigenvectors=self.latent_eigenvectors.to(device),
            linear_singular_values=self.linear_singular_values.to(device),
        )


@torch.no_grad()
def latent_statistics(encoder: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,), eigenvalues (d,) descending and eigenvectors (d, d) in columns, of the latents of images (n, s, s).

    Images of two channels are (n, 2, s, s).

    Computed in double precision; the covariance has the unbiased divisor n - 1.
    """
    latents = torch.cat([encoder(in_channels(chunk)) for chunk in images.split(STATISTICS_BATCH)]).double()
    mean = latents.mean(0)
    centred = latents - mean
    covariance = centred.T @ centred / max(1, len(latents) - 1)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    return mean, eigenvalues.flip(0).clamp_min(0), eigenvectors.flip(1)


@torch.no_grad()
def write_package(
    path: Path, network: Autoencoder, images: Tensor | NDArray[np.float32], training: dict[str, Any]
) -> None:
    """Store a trained network, on the CPU, with the latent statistics of `images`, the training set.

    The statistics are those of the encoder as stored, in half precision. Written to a temporary name, then renamed.
    """
    encoder = network.folded_encoder()
    encoder.half().float()
    mean, eigenvalues, eigenvectors = latent_statistics(encoder, torch.as_tensor(images, dtype=torch.float32))
    tensors = {f"encoder.{k}": v.half().contiguous() for k, v in encoder.state_dict().items()}
    tensors |= {f"decoder.{k}": v.half().contiguous() for k, v in network.decoder.state_dict().items()}
    tensors["latent.mean"] = mean.float()
    tensors["latent.eigenvalues"] = eigenvalues.float().contiguous()
    tensors["latent.eigenvectors"] = eigenvectors.float().contiguous()
    tensors["linear.singular_values"] = torch.linalg.svdvals(network.folded_linear()).float()
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(network.architecture.as_dict()),
        "training": json.dumps(training),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        save_file(tensors, part, metadata)


def installed_packages(channels: int | None = 1) -> list[str]:
    """Names of the decoders that ship with the program and draw so many channels; of all of them, if None."""
    files = [p for p in PRETRAINED.glob("*.safetensors") if not p.name.endswith(COMPANION_SUFFIX)]
    return sorted(p.stem for p in files if channels in (None, _declared_channels(p)))


def _declared_channels(path: Path) -> int:
    """What a package's file says of its images, without reading the network."""
    try:
        with safe_open(path, framework="pt") as handle:
            return architecture_of(json.loads((handle.metadata() or {})["architecture"])).channels
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        # It is there, and loading it says in one line what is wrong with it.
        return 1


def find_package(name: str) -> Path:
    """The file of a shipped decoder (`mnist`) or of a path to a package; raises `DecoderError` naming what exists."""
    path = Path(name)
    if path.suffix != ".safetensors":
        path = PRETRAINED / f"{name}.safetensors"
    if not path.is_file():
        have = ", ".join(installed_packages(None)) or "none"
        raise DecoderError(f"decoder {name!r} not found at {path.name}; installed: {have}; or give a .safetensors path")
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _modules(architecture: DecoderArchitecture, tensors: dict[str, Tensor]) -> tuple[nn.Module | None, nn.Module]:
    # Built without storage, so that neither a file's wild sizes nor the random initialisation cost anything.
    with torch.device("meta"):
        encoder, decoder = architecture.modules()
    for module, prefix in ((encoder, "encoder."), (decoder, "decoder.")):
        if module is None:
            continue
        state = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False).eval()
    return encoder, decoder


def _checked_image(architecture: DecoderArchitecture, decoder: nn.Module, mean: Tensor) -> None:
    """Raises `ValueError` unless the mean latent is drawn as an image in 0..1 of the size that is promised."""
    promised = (1, architecture.channels, architecture.image_size, architecture.image_size)
    with torch.no_grad():
        image = decoder(mean[None])
    if tuple(image.shape) != promised:
        raise ValueError(f"the decoder draws {tuple(image.shape)}, the architecture promises {promised}")
    if not (image.isfinite().all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"the decoder draws {float(image.min()):.3g} to {float(image.max()):.3g}, not 0 to 1")


def _statistics(architecture: DecoderArchitecture, tensors: dict[str, Tensor]) -> list[Tensor]:
    d = architecture.latent_size
    shapes = {
        "latent.mean": (d,),
        "latent.eigenvalues": (d,),
        "latent.eigenvectors": (d, d),
        "linear.singular_values": (d,),
    }
    if not architecture.name.startswith("irmae"):
        tensors = {"linear.singular_values": torch.ones(d)} | tensors
    found = [tensors[key].float() for key in shapes]
    for (key, shape), tensor in zip(shapes.items(), found, strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)}, the architecture needs {shape}")
    return found


DRAWS = {1: "an amplitude", 2: "an amplitude and a phase"}


def load_package(name: str, channels: int | None = 1, asker: str = "what was asked for") -> DecoderPackage:
    """Load a shipped decoder by name or any package by path, on the CPU, in single precision, without gradients.

    Args:
        channels: that its images must have for whoever asks; None takes any.
        asker: who that is, for the message.

    Raises:
        DecoderError: one line: the file is missing, foreign, truncated, incomplete, holds non-finite numbers, or draws
            other channels.
    """
    path = find_package(name)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  (not a dict)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (SafetensorError, OSError) as error:
        raise DecoderError(f"{path}: not a readable safetensors file ({_one_line(error)})") from None
    if metadata.get("format") != FORMAT:
        raise DecoderError(f"{path}: format is {metadata.get('format')!r}, this program reads {FORMAT!r}")
    try:
        architecture = architecture_of(json.loads(metadata["architecture"]))
        training = json.loads(metadata["training"])
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{key} holds numbers that are not finite")
        encoder, decoder = _modules(architecture, tensors)
        statistics = _statistics(architecture, tensors)
        _checked_image(architecture, decoder, statistics[0])
    except KeyError as error:
        raise DecoderError(f"{path}: incomplete decoder package: {error} is missing") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise DecoderError(f"{path}: incomplete or inconsistent decoder package ({_one_line(error)})") from None
    if channels not in (None, architecture.channels):
        have = ", ".join(installed_packages(channels)) or "none"
        both = "; `reconstruct --method latent` takes this one too" if channels == 1 else ""
        raise DecoderError(
            f"{path}: draws {DRAWS[architecture.channels]} (channels {architecture.channels}), {asker} "
            f"takes a decoder that draws {DRAWS[channels or 1]}; installed of those: {have}{both}"
        )
    mean, eigenvalues, eigenvectors, singular = statistics
    return DecoderPackage(
        name=path.stem,
        architecture=architecture,
        encoder=encoder,
        decoder=decoder,
        latent_mean=mean,
        latent_eigenvalues=eigenvalues,
        latent_eigenvectors=eigenvectors,
        linear_singular_values=singular,
        training=training,
        sha256=digest,
    )
