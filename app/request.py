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
STARTS, BOTH = ("mean", "random"), "both"
TAKERS = {
    "--decoder": ("decoder", ("latent", "hybrid", "paper")),
    "--pose": ("pose", ("latent", "hybrid")),
    "--rehearsals": ("rehearsals", ("hybrid",)),
    "--positivity/--no-positivity": ("positivity", ("conventional",)),
    "--learning-rate": ("learning_rates", ("paper",)),
    "--start": ("start", ("paper",)),
    "--epochs": ("epochs", ("paper", "conventional")),
    "--loss": ("loss", ("paper", "conventional")),
    "--seed": ("seed", ("paper", "conventional")),
}
"""Options that some methods read only: the choice's name here, and those methods."""


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
        positivity: conventional: a real amplitude in 0..1, the default.
        learning_rates, start: paper: Adam's at the start, and where from, or "both"; every combination is tried.
        epochs, loss, seed: of the iterative methods.
    """

    method: str = "latent"
    decoder: str | None = None
    exposure: str | None = None
    doubt: Doubt = CERTAIN
    pose: str | None = None
    rehearsals: int | None = None
    positivity: bool | None = None
    learning_rates: tuple[float, ...] = ()
    epochs: int | None = None
    start: str | None = None
    loss: str | None = None
    seed: int | None = None

    def check(self) -> None:
        """Raises `UsageError` for values that are not known or not the method's."""
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r}: known are {', '.join(METHODS)}")
        if self.loss is not None and self.loss not in LOSSES:
            raise UsageError(f"loss {self.loss!r}: known are {', '.join(LOSSES)}")
        if self.start not in (None, *STARTS, BOTH):
            raise UsageError(f"start {self.start!r}: known are {', '.join(STARTS)}, {BOTH}")
        if self.pose not in (None, *POSES):
            raise UsageError(f"pose {self.pose!r}: known are {', '.join(POSES)}")
        for option, (name, takers) in TAKERS.items():
            if self.method not in takers and getattr(self, name) not in (None, ()):
                raise UsageError(
                    f"{option}: the {self.method} method has no such choice; leave it out, or take --method "
                    f"{' or '.join(takers)}"
                )
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
