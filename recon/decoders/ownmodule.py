"""From a torch module of one's own to a decoder package (`recon.decoders.layers`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recon.decoders.layers import KINDS, Layer, Layers
from recon.decoders.package import FORMAT, DecoderError, DecoderPackage, load_package
from recon.files.whole import whole


def described(module: nn.Sequential) -> tuple[Layer, ...]:
    """The layers of a torch module in words and numbers.

    Raises:
        DecoderError: a layer, or a setting of one, that is not in the list; the message names it.
    """
    return tuple(_described(layer) for layer in module)


def _described(layer: nn.Module) -> Layer:
    plain = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    if type(layer) in plain:
        return plain[type(layer)], ()
    if isinstance(layer, nn.Linear):
        numbers: tuple[float, ...] = (layer.in_features, layer.out_features)
        kind = "linear"
    elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        kind = "conv" if isinstance(layer, nn.Conv2d) else "conv_transpose"
        sizes = [layer.kernel_size, layer.stride, layer.padding]
        if any(isinstance(size, str) or len(set(size)) > 1 for size in sizes):
            raise DecoderError(f"{layer}: kernel, stride and padding must be alike each way")
        numbers = (layer.in_channels, layer.out_channels, *(int(size[0]) for size in sizes))
    elif isinstance(layer, nn.BatchNorm2d):
        kind, numbers = "batch_norm", (layer.num_features,)
    elif isinstance(layer, nn.Upsample):
        factor = layer.scale_factor
        kind, numbers = "upsample", (float(factor) if isinstance(factor, int | float) else math.nan,)
    elif isinstance(layer, nn.Unflatten):
        kind, numbers = "unflatten", tuple(layer.unflattened_size)
    elif isinstance(layer, nn.Flatten):
        kind, numbers = "flatten", ()
    elif isinstance(layer, nn.LeakyReLU):
        kind, numbers = "leaky_relu", (layer.negative_slope,)
    elif isinstance(layer, nn.ELU):
        kind, numbers = "elu", (layer.alpha,)
    else:
        raise DecoderError(f"layer {type(layer).__name__} is not in the list of a decoder's layers: {', '.join(KINDS)}")
    made = KINDS[kind][1](*numbers) if len(numbers) == KINDS[kind][0] else None
    if made is None or repr(made) != repr(layer):
        raise DecoderError(f"{layer}: has settings that a package cannot hold; it would become {made}")
    return kind, numbers


@torch.no_grad()
def write_layers(
    path: Path,
    decoder: nn.Sequential,
    image_size: int,
    mean: Tensor,
    covariance: Tensor,
    *,
    encoder: nn.Sequential | None = None,
    training: Mapping[str, Any] | None = None,
) -> DecoderPackage:
    """Store a torch module as a decoder package, and load it again as anybody would.

    Args:
        decoder: from latents (n, d) to images (n, 1, s, s) or (n, s^2); it ends in a sigmoid.
        mean, covariance: (d,), (d, d) of the latents of images of the class; zeros and a unit matrix for a variational
            autoencoder.
        encoder: where there is one: `ptychoscope train --prior` needs it.
        training: a record; `source` and `validation_psnr_db` (dB, of unseen images) are read by the program.

    Raises:
        DecoderError: a layer that is not in the list, or images that are not in 0..1 or of another shape.
        ValueError: sizes that are not allowed.
    """
    architecture = Layers(image_size, len(mean), described(decoder), None if encoder is None else described(encoder))
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance.double())
    tensors = {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
    if encoder is not None:
        tensors |= {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    tensors |= {
        "latent.mean": mean.float(),
        "latent.eigenvalues": eigenvalues.flip(0).clamp_min(0).float(),
        "latent.eigenvectors": eigenvectors.flip(1).float(),
    }
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(architecture.as_dict()),
        "training": json.dumps(dict(training or {})),
    }
    with whole(path) as part:
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, part, metadata)
    return load_package(str(path))
