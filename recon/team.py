"""Several processes at one calibration: who has which frames, and how what they found is added up.

`torchrun` starts the same command several times and says in the environment who is who. Every process holds all the
unknowns and the share of the frames whose number is congruent to its rank; gradients are added, then everyone takes
the same step. On CPUs gloo carries the messages, on GPUs nccl.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.dataset import Scan
from recon.device import DeviceError, pick_device
from recon.streaming import Sums, sums_of

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it takes them for lost."""


class TeamError(Exception):
    """Another process of the same command has ended or cannot be reached; the message says so."""


class Team(Protocol):
    """The processes at one calibration.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        local: how many of them are on this machine.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def local(self) -> int: ...

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place. Raises `TeamError`."""
        ...

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place. Raises `TeamError`."""
        ...


class Alone:
    """One process: nothing to add."""

    rank, size, local = 0, 1, 1

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Nothing."""

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Nothing."""


class Group:
    """The processes of an initialised torch.distributed group; tensors must be on the device of its backend."""

    def __init__(self, local: int) -> None:
        self.rank, self.size, self.local = torch.distributed.get_rank(), torch.distributed.get_world_size(), local
        self._packed: dict[torch.dtype, Tensor] = {}

    def add(self, tensors: Sequence[Tensor]) -> None:
        """One message a call and kind of number: many small ones would wait for each other."""
        for pieces, packed in self._pack(tensors):
            self._talk(lambda message: torch.distributed.all_reduce(message), packed)
            self._unpack(pieces, packed)

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Of rank 0, to the last bit."""
        for pieces, packed in self._pack(tensors):
            self._talk(lambda message: torch.distributed.broadcast(message, 0), packed)
            self._unpack(pieces, packed)

    def _pack(self, tensors: Sequence[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
        real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        packs = []
        for kind in sorted({t.dtype for t in real}, key=str):
            pieces = [t for t in real if t.dtype == kind]
            count = sum(t.numel() for t in pieces)
            buffer = self._packed.get(kind)
            if buffer is None or buffer.numel() < count:
                buffer = self._packed[kind] = pieces[0].new_empty(count)
            packed = buffer[:count]
            for part, piece in zip(packed.split([t.numel() for t in pieces]), pieces, strict=True):
                part.copy_(piece.reshape(-1))
            packs.append((pieces, packed))
        return packs

    @staticmethod
    def _unpack(pieces: list[Tensor], packed: Tensor) -> None:
        for part, piece in zip(packed.split([t.numel() for t in pieces]), pieces, strict=True):
            piece.copy_(part.view(piece.shape))

    def _talk(self, send: object, message: Tensor) -> None:
        assert callable(send)
        try:
            send(message)
        except RuntimeError as error:
            # gloo and nccl report a peer that is gone as a RuntimeError of many lines.
            reason = (str(error).splitlines() or [""])[0][:160]
            raise TeamError(
                f"process {self.rank} of {self.size}: another process of this calibration has ended ({reason})"
            ) from None


ALONE = Alone()


@contextmanager
def join(device: str) -> Iterator[tuple[Team, str]]:
    """The team that this process was started in, and its device; alone where `torchrun` did not start it.

    Args:
        device: "auto", "cpu", "cuda", ...; in a team each process takes the GPU of its local rank.

    Raises:
        DeviceError: no such device, or fewer GPUs than processes on this machine.
        TeamError: the others cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(device)
    if size == 1:
        yield ALONE, device
        return
    local, place = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    backend = "gloo"
    if device.startswith("cuda"):
        if local > torch.cuda.device_count():
            raise DeviceError(
                f"device {device!r}: {local} processes on {torch.cuda.device_count()} GPUs; start one for each GPU"
            )
        backend, device = "nccl", f"cuda:{place}"
    try:
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:160]
        raise TeamError(f"torchrun: the {size} processes do not find each other ({reason})") from None
    try:
        yield Group(local), device
    finally:
        torch.distributed.destroy_process_group()


def share_of(data: Scan, team: Team) -> Scan:
    """The frames of this process: those whose number is congruent to its rank."""
    return data if team.size == 1 else data.select(np.arange(team.rank, len(data), team.size))


def team_sums(share: Scan, count: int, team: Team, device: str) -> Sums:
    """What one pass shows of all `count` frames, each process looking at its share."""
    own = sums_of(share)
    if team.size == 1:
        return own
    light: NDArray[np.float64] = np.zeros(count)
    light[team.rank :: team.size] = own.light
    found = [torch.from_numpy(a).to(device) for a in (own.total, light, np.array([float(own.clipped)]))]
    team.add(found)
    total, light, clipped = (t.cpu().numpy() for t in found)
    return Sums(total, light, bool(clipped[0] > 0))
