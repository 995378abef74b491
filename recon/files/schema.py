"""Every name in a run file, in one place.

One entry per exposure: `entry_1` holds the calibration scan, `entry_2 ... entry_k` the evaluation series in ascending
exposure. Everything that changes while a scan runs is a dataset of fixed size, allocated when the file is created and
overwritten in place: while a scan runs no write touches the file's metadata, so a kill cannot tear it. Results, which
come later and do, are added as a whole or not at all (`recon.files.journal`).
"""

from __future__ import annotations

FORMAT_VERSION = 1
CXI_VERSION = 160
CREATOR = "Ptychoscope"

# Root: attributes, then PtyLab's aliases for entry_1.
ATTR_CREATOR = "creator"
ATTR_FORMAT = "format_version"
ATTR_DEFAULT = "default"
ATTR_CLASS = "NX_class"
ATTR_UNITS = "units"
CXI_VERSION_NAME = "cxi_version"
ATTR_FAR_FIELD = "far_field"
"""Of a detector: its frames are Fraunhofer patterns, zero frequency in the middle; absent for the near field."""
PTYLAB_FRAMES = "ptychogram"
PTYLAB_ENCODER = "encoder"
PTYLAB_WAVELENGTH = "wavelength"
PTYLAB_PIXEL = "dxd"
PTYLAB_DISTANCE = "zo"
PTYLAB_BACKGROUND = "background"
PTYLAB_EMPTY = "emptyBeam"
PTYLAB_PUPIL = "entrancePupilDiameter"
PTYLAB_ORIENTATION = "orientation"

# An entry.
NAME = "name"
TITLE = "title"
DEFINITION = "definition"
DEFINITION_VALUE = "NXcxi_ptycho"
STREAM = "stream"
EXPOSURE = "exposure_s"
CALIBRATION_EXPOSURES = "calibration_exposures_s"
SIMULATED = "simulated"
START_TIME = "start_time"
END_TIME = "end_time"
OUTCOME = "outcome"
PLAN = "plan"
ORDER = "plan_order"
"""int64 vector of a low-dose run: at each place the number in the plan of the step that is carried out there."""
PROFILE = "profile"
SEED = "seed"
SAMPLE = "sample_spec"
CHARACTERISATION = "characterisation"
CHARACTERISATION_HASH = "characterisation_sha256"
DARKS_SOURCE = "darks_source"
CALIBRATION_SOURCE = "calibration_source"
"""JSON of a low-dose run: path and digest of the calibration that it was taken under; "" for others."""
SOFTWARE = "software"
LOG = "log"
COMMITTED = "committed"
"""int64 vector: plan steps completed, frames of the step in progress, then frames in entry_1, in empty_1 and in
entry_2 ... entry_k. One write commits a frame; everything beyond these counts is to be discarded."""

# The detector.
INSTRUMENT = "instrument_1"
SOURCE = "instrument_1/source_1"
BEAM = "instrument_1/beam_1"
DETECTOR = "instrument_1/detector_1"
ENERGY = "energy"
BEAM_ENERGY = "incident_beam_energy"
BEAM_WAVELENGTH = "incident_wavelength"
EXTENT = "extent"
DATA = "data"
MASK = "mask"
DATA_DARK = "data_dark"
DARK_VARIANCE = "dark_variance"
DISTANCE = "distance"
X_PIXEL = "x_pixel_size"
Y_PIXEL = "y_pixel_size"
COUNT_TIME = "count_time"
ASKED_TIME = "asked_time"
EXPOSURE_OFFSET = "exposure_offset"
TIMESTAMPS = "timestamps"
POSITION_INDEX = "position_index"
FRAMES_COMMITTED = "frames_committed"
GAIN = "electrons_per_adu"
BLACK_LEVEL = "black_level"
BIT_DEPTH = "bit_depth"
SATURATION = "saturation_adu"
QUANTUM_EFFICIENCY = "quantum_efficiency"
CAMERA = "camera"
CAMERA_SERIAL = "camera_serial"
NODE_MAP = "node_map"
"""JSON object: every setting of the camera, name to text, as it was before the first frame; "" for a simulated one."""
GAIN_DB = "gain_db"
REGION = "region"
READ_NOISE = "read_noise_e"
DARK_CURRENT = "dark_current_e_s"

# The sample and its stage.
SAMPLE_NAME = "sample_1/name"
NOTES = "sample_1/description"
GEOMETRY = "sample_1/geometry_1"
TRANSLATION = "translation"
TRANSFORMATIONS = "sample_1/transformations"
COMMANDED = "commanded"
READBACK = "readback"
STAGE_TO_OBJECT = "stage_to_object"
STAGE_CENTRE = "stage_centre"
STAGE = "stage"
STAGE_SERIAL = "stage_serial"

# Links, darks, the empty beam.
DATA_LINKS = "data_1"
DARK = "dark_1"
DARKS = "darks"
EMPTY = "empty_1"
EMPTY_BEFORE = "frames_before"
DRIFT = "drift"
DARK_COUNT = "count"
DARK_MEAN = "mean"
DARK_SAMPLE_VARIANCE = "variance"
DARK_HISTOGRAM = "residual_histogram"
DARK_HISTOGRAM_EDGES = "residual_edges"
DARK_HISTOGRAM_FRAMES = "residual_frames"
DARK_RAW = "frames"

# Points that were taken again.
REVISIONS = "revisions"
"""Pool of frames that supersede others. Its own `committed`, int64: frames and revisions that count. Per frame also the
entry and the frame in it that it supersedes and the number of its revision, from 0; per revision time, point and
reason."""
REVISION_ENTRY = "superseded_entry"
REVISION_FRAME = "superseded_frame"
REVISION_NUMBER = "revision"
REVISION_TIME = "revision_time"
REVISION_POINT = "revision_point"
REVISION_REASON = "revision_reason"
TRUE_POSITION = "true_position"

# Truth of a simulated run.
TRUTH = "truth"
TRUTH_OBJECT = "object"
TRUTH_OBJECT_PIXEL = "object_pixel_size"
TRUTH_PROBE = "probe"
TRUTH_PROBE_PIXEL = "probe_pixel_size"
TRUTH_DISTANCE = "distance"
TRUTH_POSITIONS = "positions"

# Results.
CALIBRATION = "calibration"
PROBE_IMAGE = "image_1"
OBJECT_IMAGE = "image_2"
POSTERIOR = "posterior"
RESULT_DISTANCE = "distance"
RESULT_POSITIONS = "positions"
RESULT_LOSS = "loss"
RESULT_VISITS = "visits"
"""int64 vector of a calibration: of each frame the number of the revision that it is from, counted from 1; 0 for the
first visit. Absent in files of older versions."""
RESULT_SETTINGS = "settings"
RESULT_SOFTWARE = "software"
UNCERTAINTY = "uncertainty"
DISTANCE_SIGMA = "distance_sigma"
DISTANCE_STEP = "distance_step"
POSITION_SIGMA = "position_sigma"
AFFINE_SIGMA = "affine_sigma"
PROBE_MODES = "probe_modes"
PROBE_SIGMA = "probe_sigma"
PROBE_MODES_PIXEL = "probe_modes_pixel_size"
PROBE_RELATIVE = "probe_relative_sigma"
MISFIT = "misfit"
FITTED = "fitted_parameters"
BINNING = "binning"
PRODUCTS = "products"
IMAGE_PIXEL = "pixel_size"

# A file of darks alone: the same groups as in an entry, in one root group.
DARK_FILE = "dark_set"

HISTOGRAM_BIN_ADU = 0.125
HISTOGRAM_HALF_RANGE_ADU = 256.0
LOG_LINES = 1024
LOG_LINE_BYTES = 200
SHORT_TEXT = 32
OUTCOMES = ("running", "completed", "aborted", "failed")


def entry_name(number: int) -> str:
    """`entry_1`, `entry_2`, ..."""
    return f"entry_{number}"


def dark_name(number: int) -> str:
    """Group of the n-th dark exposure (from 1) inside `entry_1/darks`."""
    return f"dark_{number}"
