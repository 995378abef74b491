"""The toy decoder that several files here look at."""

from __future__ import annotations

import pytest

from recon.decoders.package import DecoderPackage
from tests.decoders.toys import toy_package


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> DecoderPackage:
    """See `toy_package`; its file is toy.safetensors."""
    return toy_package(tmp_path_factory.mktemp("toys") / "toy.safetensors")
