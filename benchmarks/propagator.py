"""How far the propagation of `recon.optics` is from an independent one, at the paper's geometry.

    python -m benchmarks.propagator [--write]

Relative L1 error of the intensity over the camera's 1024 x 1024 frame (561 nm, 65 mm, 3.45 um), for the frame's own
window ("unpadded", what reconstructions use) and for one twice as wide ("padded"). The reference is an angular spectrum
in complex128 numpy on 4096 points of the same pitch: 65 mm are less than its N dx^2/lambda, so it needs no band limit.
`--write` appends the result to RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.report import append_rows, machine
from recon.optics import Propagator, critical_distance
from simulators.objects import Sample, draw_digit
from simulators.optics import Illumination

WAVELENGTH_M = 561e-9
DISTANCE_M = 65e-3
PIXEL_M = 3.45e-6
FRAME = 1024
REFERENCE = 4096
CLAIMS = {"padded": 0.005, "unpadded": 0.03}
PROBE = Illumination(diameter_m=500e-6, edge_m=12e-6, defocus_waves=0.1, astigmatism_waves=0.06, coma_waves=0.04)


def placed(field: NDArray, size: int) -> NDArray:
    """`field` in the middle of a (size, size) array: index n//2 stays index n//2."""
    out = np.zeros((size, size), np.complex128)
    corner = size // 2 - len(field) // 2
    out[corner : corner + len(field), corner : corner + len(field)] = field
    return out


def middle(field: NDArray) -> NDArray:
    corner = len(field) // 2 - FRAME // 2
    return field[corner : corner + FRAME, corner : corner + FRAME]


def reference_intensity(exit_wave: NDArray) -> NDArray[np.float64]:
    """(FRAME, FRAME) by a textbook angular spectrum that shares no line with `recon.optics`."""
    assert critical_distance(REFERENCE, PIXEL_M, WAVELENGTH_M) > DISTANCE_M
    f = np.fft.fftfreq(REFERENCE, PIXEL_M)
    k_z = np.sqrt(1 / WAVELENGTH_M**2 - f[:, None] ** 2 - f[None, :] ** 2)
    spectrum = np.fft.fft2(placed(exit_wave, REFERENCE))
    spectrum *= np.exp(2j * np.pi * DISTANCE_M * (k_z - 1 / WAVELENGTH_M))
    return np.abs(middle(np.fft.ifft2(spectrum))) ** 2


def intensity(exit_wave: NDArray, size: int) -> NDArray[np.float64]:
    """(FRAME, FRAME) by `recon.optics` on a window of `size`."""
    propagator = Propagator.build((size, size), PIXEL_M, WAVELENGTH_M, DISTANCE_M)
    field = propagator(torch.from_numpy(placed(exit_wave, size).astype(np.complex64)))
    return np.abs(middle(field.numpy()).astype(np.complex128)) ** 2


def objects() -> dict[str, NDArray]:
    """Transmissions (K, K) on the probe's window: a binary mask, and the same drawing blurred by 20 um."""
    size = PROBE.window(PIXEL_M)
    sample = Sample.from_drawing(draw_digit(4, 0), 1.0e-3, 8e-3, pitch_m=PIXEL_M)
    drawn = np.abs(sample.transmission(PIXEL_M, (size, size)))
    binary = (drawn > 0.5).astype(np.float64)
    return {"binary digit": binary, "smooth digit": ndimage.gaussian_filter(binary, 20e-6 / PIXEL_M)}


def measure() -> list[tuple[str, str, float]]:
    """(window, object, relative L1 error) of each case."""
    rows = []
    probe = PROBE.field(PIXEL_M, PROBE.window(PIXEL_M))
    for name, transmission in objects().items():
        wave = probe * transmission
        truth = reference_intensity(wave)
        for kind, size in (("unpadded", FRAME), ("padded", 2 * FRAME)):
            error = float(np.abs(intensity(wave, size) - truth).sum() / truth.sum())
            rows.append((kind, name, error))
    return rows


def main() -> int:
    """Print the errors; 1 when one exceeds its claim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="append the result to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made_on = machine("torch", "numpy", "scipy", cores=1)
    print(made_on)
    lines, good = [], True
    for kind, name, error in measure():
        good &= error <= CLAIMS[kind]
        print(f"{kind:9} {name:13} relative L1 error {100 * error:7.4f} %   claim {100 * CLAIMS[kind]:.1f} %")
        window = FRAME if kind == "unpadded" else 2 * FRAME
        claim = f"at most {100 * CLAIMS[kind]:.1f} %"
        lines.append((f"relative L1 error, {kind} {window}, {name}", f"{100 * error:.3g} %", claim))
    if arguments.write:
        append_rows("python -m benchmarks.propagator", lines, made_on)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
