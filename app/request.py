"""What `ptychoscope reconstruct` is asked for, and which method takes which choice."""

from __future__ import annotations

from dataclasses import dataclass

from app.combining import CERTAIN, Doubt
from app.deciding import candidates
from app.errors import UsageError
from app.latent import POSES
from recon.counting import PREPARED
from recon.noise import LOSSES

METHODS = ("latent", "hybrid", "paper", "conventional")


@dataclass(frozen=True)
class Request:
    """What `ptychoscope reconstruct` is asked for; None leaves a choice to the method.

    Attributes:
        method: latent, hybrid, paper or conventional.
        decoder: name or path; latent and hybrid: "auto" ranks the installed ones by evidence, "auto:A,B" those named.
        exposure: which exposure, seconds; latent: several with commas between them, or "all"; None takes the shortest.
        doubt: latent: what is uncertain beside the object.
        pose: latent and hybrid: "free" or "known", the sample's place under the decoder's square.
        rehearsals: hybrid: how many give the standard deviations; none without.
        positivity: conventional: a real amplitude in 0..1.
        learning_rate, epochs, start, loss, seed: of the iterative methods.
    """

    method: str = "latent"
    decoder: str | None = None
    exposure: str | None = None
    doubt: Doubt = CERTAIN
    pose: str | None = None
    rehearsals: int | None = None
    positivity: bool = True
    learning_rate: float | None = None
    epochs: int | None = None
    start: str | None = None
    loss: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises `UsageError` for values that are not known or not the method's."""
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r}: known are {', '.join(METHODS)}")
        if self.loss is not None and self.loss not in LOSSES:
            raise UsageError(f"loss {self.loss!r}: known are {', '.join(LOSSES)}")
        if self.start not in (None, "mean", "random"):
            raise UsageError(f"start {self.start!r}: known are mean, random")
        if self.pose not in (None, *POSES):
            raise UsageError(f"pose {self.pose!r}: known are {', '.join(POSES)}")
        foreign = {
            "latent": ("learning_rate", "epochs", "start", "loss", "rehearsals"),
            "hybrid": ("learning_rate", "epochs", "start", "loss"),
            "paper": ("pose", "rehearsals"),
            "conventional": ("learning_rate", "start", "pose", "decoder", "rehearsals"),
        }[self.method]
        for name in foreign:
            if getattr(self, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option}: the {self.method} method has no such choice; leave it out")
        if self.method == "paper" and self.decoder is not None and candidates(self.decoder) is not None:
            raise UsageError(
                f"--decoder {self.decoder}: evidence is the latent method's; name a decoder for the paper's"
            )
        if self.method != "latent" and self.doubt.asked:
            raise UsageError(f"--marginalise: the {self.method} method takes what it is told as exact; leave it out")
        if self.decoder is not None and self.doubt.asked and candidates(self.decoder) is not None:
            raise UsageError(f"--marginalise: --decoder {self.decoder} ranks under exact positions; name a decoder")
        if self.method == "conventional" and self.loss is not None and self.loss not in PREPARED:
            raise UsageError(f"loss {self.loss!r}: conventional takes {', '.join(PREPARED)}")
