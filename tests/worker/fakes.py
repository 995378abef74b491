"""A worker that computes next to nothing, in a process or a thread of its own, over the real sockets."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from app.worker.book import RunBook
from app.worker.keys import ServerKeys
from app.worker.message import Calibrated, Epoch, Estimate, Pixels
from app.worker.server import Server, watch_stdin

SIDE = 8
EPOCHS = 3
COMMAND = ("-m", "tests.worker.fakes")


class FakeEngine:
    """Answers at once; an image's pixels are the number of frames, its predicted light is the measured."""

    def __init__(self) -> None:
        self.estimated: list[tuple[float, int, bool]] = []
        self.loaded: list[str] = []
        self.prepared: list[int] = []

    def load(self, look) -> str:
        self.loaded.append(look.decoder)
        return ""

    def begin_anew(self) -> None:
        pass

    def calibrate(self, book: RunBook, report: Callable[[Epoch], None], stop: Callable[[], bool]) -> Calibrated:
        data, run = book.bright_scan(), book.begin.run
        wave = np.exp(1j * np.linspace(0, 6, SIDE**2)).reshape(SIDE, SIDE).astype(np.complex64)
        for epoch in range(1, EPOCHS + 1):
            report(Epoch(run, epoch, EPOCHS, "joint", 1.0 / epoch, 0.02, 0.1 / epoch, wave, wave))
        return Calibrated(
            run=run,
            probe=wave,
            object=wave,
            pixel_m=data.geometry.pixel_size_m,
            distance_m=0.02,
            positions_m=data.positions_m,
            times=book.bright_times(),
            loss=np.arange(3.0),
            settings=json.dumps({"window_px": SIDE}),
            software="{}",
        )

    def prepare(self, look, light, data) -> None:
        self.prepared.append(len(data))

    def estimate(self, book, look, light, exposure_s, data, planned, final) -> Estimate:
        self.estimated.append((exposure_s, len(data), final))
        lent = light is not None and light.lent
        image = np.full((SIDE, SIDE), len(data), np.float32)
        light_e = data.frames.sum(0)[: 4 * SIDE : 4, : 4 * SIDE : 4].copy()
        numbers = {
            "verdict": "recovered" if final or len(data) > (1 if lent else 3) else "not enough light",
            "reason": f"{len(data)} frames, {look.decoder}",
            "photons_counted": float(data.frames.sum()),
            "sigma_mean": 0.25,
            "classes": {"3": 0.25, "7": 0.75},
            "probability_of_success": 0.9,
            "expected_psnr_db": 17.5,
        }
        if look.ahead and not final:
            points = list(book.plan.evaluation_indices)
            # Each point tells more than those before it, and less the more frames there are.
            nats = [(1 + point) / (1 + len(data)) for point in points]
            numbers["ahead"] = {"points": points, "information": nats}
        return Estimate(
            run=book.begin.run,
            exposure_s=exposure_s,
            frames=len(data),
            planned=planned,
            final=final,
            decoder=look.decoder,
            pose_prior=look.pose,
            lent=lent,
            seconds=0.0,
            numbers=json.dumps(numbers),
            image=image,
            deviation=image,
            spread=image,
            decoder_mean=image,
            mode=image,
            modes=np.zeros((1, SIDE, SIDE), np.float16),
            samples=np.zeros((1, SIDE, SIDE), np.float16),
            parameters=np.zeros((1, 3), np.float32),
            latent=np.zeros(3, np.float32),
            frame_scores=np.zeros(len(data), np.float32),
            pose=np.zeros(4, np.float32),
            pose_sigma=np.zeros(4, np.float32),
            measured=light_e,
            predicted=light_e,
            variance=np.ones_like(light_e),
            block_m=1e-5,
        )

    def pixels(self, book, light, exposure_s, data, field_m, samples, stop) -> Pixels:
        return Pixels(book.begin.run, exposure_s, len(data), np.ones((SIDE, SIDE), np.float32))


@contextmanager
def served(address: str = "tcp://127.0.0.1:*", keys: ServerKeys | None = None) -> Iterator[Server]:
    """A server in a thread; its engine is `server.engine`."""
    engine, said = FakeEngine(), []
    server = Server(engine, "fake", {"fake": "1"}, address, keys, said.append)
    server.engine, server.said = engine, said
    over = threading.Event()
    thread = threading.Thread(target=server.run, args=(over.is_set,))
    thread.start()
    try:
        yield server
    finally:
        over.set()
        thread.join()
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--for-window", type=Path)
    file = parser.parse_args().for_window
    server = Server(FakeEngine(), "fake", {})
    part = file.with_suffix(".part")
    part.write_text(server.address)
    part.replace(file)
    server.run(watch_stdin())
    server.close()


if __name__ == "__main__":
    main()
