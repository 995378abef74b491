"""Do sharper decoders draw photomasks better, and are they no worse in the dark?

python -m benchmarks.sharper [--decoder mnist-64] [--count 10] [--out FOLDER] [--record]

Masks of MNIST's test digits on the small scene of `benchmarks.small_cases`: what each decoder draws at best (the
noise-free fit), and the latent method's posterior mean from 30 photons an exposure on, over the lit mask. `--decoder`
may be given again; all are compared with `mnist`. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.studies.objects import Pose, drawn_on, make_truth
from app.studies.scene import FIELD_M
from app.studies.work import REFERENCE_PHOTONS
from benchmarks.report import append_rows, machine
from benchmarks.small_cases import DECODER, Cases
from recon.ceiling import NODE_M, noise_free_fit
from recon.metrics import psnr_db
from recon.simulated import intensities

PHOTONS = (30.0, 100.0, 300.0, 1e3, 1e4)
CLAIM_DB = 3.0


def closest(cases: Cases, name: str, decoder: str) -> float:
    """PSNR of the noise-free fit over the lit mask, dB."""
    key = f"fit {name} {decoder}"
    if key not in cases.done:
        shop, scene = cases.shop, cases.scene
        truth = make_truth(cases.objects[name], "mask", Pose.nominal(), scene)
        package = shop.package(decoder)
        size = package.architecture.image_size
        start = _averaged(truth.amplitude, scene.pixel_m, size)
        per_photon = intensities(scene.light, scene.positions_m, truth.amplitude)
        lit = shop.lit(decoder, NODE_M).with_seconds(REFERENCE_PHOTONS)
        image = noise_free_fit(lit, per_photon, package, shop.companion(decoder), start)
        cases.keep(key, {"psnr_db": float(psnr_db(drawn_on(image, scene), truth.amplitude, scene.lit))})
    return float(cases.done[key]["psnr_db"])


def _averaged(amplitude: NDArray[np.float32], pixel_m: float, size: int) -> NDArray[np.float32]:
    """(size, size) means of an object (M, M) over the pixels of a decoder's grid."""
    edges = np.linspace(-FIELD_M / 2, FIELD_M / 2, size + 1)
    centres = (np.arange(len(amplitude)) - len(amplitude) // 2) * pixel_m
    low, high = centres - pixel_m / 2, centres + pixel_m / 2
    shared = np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None])
    share = (np.clip(shared, 0, None) / (FIELD_M / size)).astype(np.float32)
    means: NDArray[np.float32] = (share @ amplitude @ share.T).clip(0, 1)
    return means


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", action="append", help="to compare; default mnist-64")
    parser.add_argument("--count", type=int, default=10, help="digits, from the first of MNIST's test set")
    parser.add_argument("--out", type=Path, default=Path("sharper"), help="folder of the finished cases")
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(asked.count, asked.out)
    names = list(cases.objects)
    decoders = [DECODER, *(asked.decoder or ["mnist-64"])]
    scores: dict[str, NDArray[np.float64]] = {decoder: np.zeros((len(names), len(PHOTONS) + 1)) for decoder in decoders}
    for row, name in enumerate(names):
        for decoder in decoders:
            scores[decoder][row, 0] = closest(cases, name, decoder)
            for column, photons in enumerate(PHOTONS, 1):
                scores[decoder][row, column] = cases.score("latent", name, photons, decoder)["psnr_db"]
            print(f"{name:14} {decoder:12}" + "".join(f"{value:7.2f}" for value in scores[decoder][row]), flush=True)
    rows = []
    for decoder in decoders[1:]:
        for column, what in enumerate(("the noise-free fit", *(f"{photons:g} photons" for photons in PHOTONS))):
            both = [scores[d][:, column] for d in (DECODER, decoder)]
            gain = both[1] - both[0]
            error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
            said = f"{both[0].mean():.2f} and {both[1].mean():.2f} dB: {gain.mean():+.2f} +- {error:.2f}"
            print(f"{decoder}, {what}: {said}")
            claim = f"at least +{CLAIM_DB:g} dB" if column == 0 else "no worse in the dark"
            subject = f"{what}, {len(names)} masks: PSNR over the lit mask of {DECODER} and {Path(decoder).stem}"
            rows.append((subject, said, claim))
    if asked.record:
        append_rows(f"python -m benchmarks.sharper --count {asked.count}", rows, machine("numpy", "torch", cores=1))


if __name__ == "__main__":
    main()
