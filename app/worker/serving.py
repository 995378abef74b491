"""`ptychoscope serve`: the worker, here for the window that started it, or on another machine with a GPU."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import UsageError
from app.options import DeviceOption, JsonOption, refuse_given

if TYPE_CHECKING:
    from app.worker.live import Live

DEFAULT = "127.0.0.1:5577"
NICE = 5


def serve(
    context: typer.Context,
    listen: Annotated[str, typer.Option(help="HOST:PORT; beyond this machine only with --keys.")] = DEFAULT,
    keys: Annotated[Path | None, typer.Option(help="Folder with CURVE keys; windows need theirs.")] = None,
    make_keys: Annotated[Path | None, typer.Option(help="Make keys in this folder, and end.")] = None,
    device: DeviceOption = "auto",
    for_window: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct for windows: gui --server HOST:PORT sends frames here and shows what comes back. Ctrl-C ends it.

    Nothing is stored here. Without --keys it listens on this machine only.
    """
    from app.reporting import report, say
    from app.stopping import Interrupt
    from app.worker import keys as keyring

    if make_keys is not None:
        refuse_given(context, ("listen", "keys", "device"), f"--make-keys {make_keys} makes keys and ends")
        keyring.make_keys(make_keys)
        report({"keys": str(make_keys), "for the window": "client.key_secret and server.key"}, as_json)
        return
    if for_window is not None:
        # A terminal's Ctrl-C reaches every process of the command; this one ends with the one that started it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from app.worker.engine import Engine
    from app.worker.server import Server, watch_stdin

    held = None if keys is None else keyring.server_keys(keys)
    address = "tcp://127.0.0.1:*" if for_window is not None else keyring.address_of(listen, held is not None)
    engine = Engine(device)
    server = Server(engine, engine.device, engine.software, address, held, say)
    interrupt = Interrupt()
    if for_window is not None:
        if hasattr(os, "nice"):
            # Scan and window go first.
            os.nice(NICE)
        # Whole at once: the window looks for it.
        part = for_window.with_suffix(".part")
        part.write_text(server.address)
        part.replace(for_window)
        server.run(watch_stdin())
        os._exit(0)
    say(f"serving at {server.address.removeprefix('tcp://')} on {engine.device}, {'keys' if held else 'no keys'}")
    with interrupt.listening(lambda: None):
        server.run(lambda: interrupt.wanted)
    # A computation in progress would hold up an end in good order, and nothing here is kept.
    report({"address": server.address, "device": engine.device, "refused": server.refused}, as_json)
    os._exit(interrupt.exit_code)


def reconstruction(server: str | None, keys: Path | None, wanted: bool = True) -> Live:
    """A reconstruction by a worker elsewhere, or by a process of its own here.

    Raises:
        UsageError: no address, one beyond this machine without keys, keys without one, or no keys where they should be.
    """
    from app.worker.keys import address_of, client_keys
    from app.worker.live import Live
    from app.worker.place import Elsewhere

    if keys is not None and server is None:
        raise UsageError("--keys are for --server HOST:PORT; give that as well")
    held = None if keys is None else client_keys(keys)
    return Live(None if server is None else Elsewhere(address_of(server, held is not None)), held, wanted)
