"""A small bench for the tests of this folder."""

from __future__ import annotations

from simulators.bench import BenchSettings

SMALL = BenchSettings(
    wavelength_m=561e-9,
    distance_m=20e-3,
    pinhole_diameter_m=500e-6,
    shape=(128, 128),
    pixel_size_m=13.8e-6,
    bit_depth=16,
    electrons_per_adu=0.11,
    black_level_adu=200,
    read_noise_e=0.3,
    quantum_efficiency=1.0,
    dark_current_e_s=0.006,
    full_well_e=7000,
    min_exposure_s=2e-6,
    max_exposure_s=10.0,
    limits_y_m=(0.5e-3, 24.5e-3),
    limits_x_m=(0.5e-3, 24.5e-3),
    centre_m=(12.5e-3, 12.5e-3),
    photons_per_second=3.3333333e6,
    edge_m=30e-6,
    hot_pixels=3,
    backlash_m=8e-6,
    repeatability_m=2e-6,
    rotation_rad=2e-3,
    distance_error_m=0.1e-3,
)
PARK_M = (12.5e-3, 20.0e-3)
