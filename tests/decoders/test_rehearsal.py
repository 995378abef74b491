"""What torch loads at its first derivative is loaded before a frame could wait for it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from app.latent import Decoder
decoder = Decoder.load("mnist-4")
before = "torch._dynamo" in sys.modules
decoder.rehearse()
print(before, "torch._dynamo" in sys.modules)
"""


def test_a_rehearsal_loads_the_rules_of_forward_mode():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
