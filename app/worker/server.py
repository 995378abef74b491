"""The worker as a process: one thread for the socket, which always answers, and one that computes.

Every window has a session of its own. Malformed messages are refused, counted and told in one line; nothing that
arrives ends the worker. What was found is kept for a window that comes back after its network was cut.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq
from zmq.auth.thread import ThreadAuthenticator

from app.worker.keys import ServerKeys
from app.worker.message import (
    MOST_BYTES,
    Begin,
    Calibrated,
    Choose,
    Epoch,
    Estimate,
    Hello,
    Message,
    MessageError,
    Ping,
    Pixels,
    Pong,
    Said,
    ToWindow,
    ToWorker,
    Welcome,
    decode,
    encode,
)
from app.worker.session import Engine, Session
from recon.dataset import DatasetError

POLL_MS = 100
MOST_WINDOWS = 4
"""Sessions that are kept; of more, the one that has been silent longest is forgotten."""
TOLD = 20
"""Refusals that are written out; the others are counted."""
RESULTS = "inproc://results"
ZAP_DOMAIN = "ptychoscope"
WAITING = 64
"""Messages that may wait on the way to a window; each has its own limit besides."""


@dataclass
class _Window:
    """A window: its session, and the newest of each kind of result."""

    session: Session
    heard: float
    kept: dict[object, list[bytes]] = field(default_factory=dict)


class Server:
    """See above. `run` in the thread of the sockets.

    Args:
        engine: what computes, in a thread of its own.
        device, software: told to windows.
        address: where to listen; port * takes a free one.
        keys: with them only windows that hold theirs are let in.
        say: told what is refused.

    Raises:
        OSError: the address cannot be had.

    Attributes:
        address: where it listens.
        refused: malformed messages so far.
    """

    def __init__(
        self,
        engine: Engine,
        device: str,
        software: dict[str, str],
        address: str = "tcp://127.0.0.1:*",
        keys: ServerKeys | None = None,
        say: Callable[[str], None] = lambda _: None,
    ):
        self._engine, self._say = engine, say
        self._welcome = Welcome(uuid.uuid4().hex, device, software)
        self._context = zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._results = self._context.socket(zmq.PULL)
        self._results.bind(RESULTS)
        self._tell = self._context.socket(zmq.PUSH)
        self._tell.connect(RESULTS)
        for name, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, WAITING),
            # A window that comes back has the same name; its new line counts.
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.MAXMSGSIZE, MOST_BYTES),
            (zmq.IPV6, int("[" in address)),
        ):
            self._socket.setsockopt(name, value)
        if keys is not None:
            self._guard = ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve_callback(ZAP_DOMAIN, _Only(keys.client))
            # Enforced: were nobody there to ask, nobody would be let in.
            self._socket.setsockopt_string(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
            self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self._socket.curve_server = True
            self._socket.curve_publickey, self._socket.curve_secretkey = keys.public, keys.secret
        self._computing = threading.Thread(target=self._compute, name="reconstruction", daemon=True)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise OSError(f"{address}: cannot listen there ({error.strerror}); choose another port") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._windows: dict[bytes, _Window] = {}
        self._lock = threading.Lock()
        self._received = self.refused = 0
        self._more = threading.Event()
        self._over = threading.Event()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Serve until `until` says so, which is asked several times a second."""
        self._computing.start()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._results, zmq.POLLIN)
        try:
            while not until():
                ready = dict(poller.poll(POLL_MS))
                if self._results in ready:
                    self._forward()
                if self._socket in ready:
                    self._hear()
        finally:
            self._over.set()
            self._more.set()

    def close(self) -> None:
        """Let the address go, after the piece of work in progress."""
        if self._guard is not None:
            self._guard.stop()
        self._socket.close(0)
        self._results.close(0)
        if self._computing.is_alive():
            self._computing.join()
        self._tell.close(0)
        self._context.term()

    # ---- The socket --------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Everything that has arrived, so that a ping is answered when what came before it has been taken in."""
        for _ in range(WAITING):
            try:
                who, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._received += 1
            try:
                message = decode(parts)
            except MessageError as error:
                self._refuse(str(error))
                continue
            try:
                self._take(who, message)
            except Exception as error:
                # Whatever a stranger has sent, the others are served.
                self._refuse(f"{type(message).__name__}: {type(error).__name__}: {error}")

    def _take(self, who: bytes, message: Message) -> None:
        window = self._window(who)
        window.heard = time.monotonic()
        if isinstance(message, Hello):
            self._send(who, self._welcome)
            for parts in list(window.kept.values()):
                self._send_parts(who, parts)
            return
        if isinstance(message, Ping):
            self._send(who, window.session.pong(message, self._received, self.refused))
            self._more.set()
            return
        if isinstance(message, Welcome | Pong | Epoch | Estimate | Pixels | Said):
            self._refuse(f"{type(message).__name__}: is not for a worker")
            return
        if isinstance(message, Begin | Choose):
            # Another run, or another decoder: nothing that was said before holds.
            window.kept.clear()
        asked: ToWorker = message
        try:
            window.session.take(asked)
        except DatasetError as error:
            self._refuse(str(error))
            self._send(who, Said(getattr(message, "run", ""), "frames", str(error), bad=True))
        self._more.set()

    def _window(self, who: bytes) -> _Window:
        with self._lock:
            if who not in self._windows:
                while len(self._windows) >= MOST_WINDOWS:
                    del self._windows[min(self._windows, key=lambda one: self._windows[one].heard)]

                def tell(message: ToWindow) -> None:
                    # In the computing thread, whose socket this is.
                    while not self._over.is_set():
                        if self._tell.poll(POLL_MS, zmq.POLLOUT):
                            self._tell.send_multipart([who, _kept_as(message), *encode(message)])
                            return

                self._windows[who] = _Window(Session(self._engine, tell), time.monotonic())
            return self._windows[who]

    def _forward(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                who, kind, *parts = self._results.recv_multipart(zmq.NOBLOCK)
                window = self._windows.get(who)
                if window is not None:
                    window.kept[kind] = parts
                    self._send_parts(who, parts)

    def _send(self, who: bytes, message: ToWindow) -> None:
        self._send_parts(who, encode(message))

    def _send_parts(self, who: bytes, parts: list[bytes]) -> None:
        # A window that does not listen loses what it cannot take; it asks again when it comes back.
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart([who, *parts], zmq.NOBLOCK)

    def _refuse(self, words: str) -> None:
        self.refused += 1
        if self.refused <= TOLD:
            self._say(f"refused: {' '.join(words.split())}")

    # ---- The computing thread ----------------------------------------------------------------------------------------

    def _compute(self) -> None:
        while not self._over.is_set():
            self._more.wait()
            self._more.clear()
            busy = True
            while busy and not self._over.is_set():
                with self._lock:
                    sessions = [window.session for window in self._windows.values()]
                # A turn for every window.
                worked = [session.work() for session in sessions]
                busy = any(worked)


class _Only:
    """Lets one public key in. What `ThreadAuthenticator` asks."""

    def __init__(self, public: bytes):
        self._public = public

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._public


def _kept_as(message: ToWindow) -> bytes:
    """Of messages with one such name the newest is kept."""
    name = type(message).__name__
    if isinstance(message, Estimate | Pixels):
        name += f" {message.exposure_s!r}"
    elif isinstance(message, Said):
        name += f" {message.what}"
    elif isinstance(message, Calibrated | Epoch):
        name = type(message).__name__
    return name.encode()


def watch_stdin() -> Callable[[], bool]:
    """Tells when whoever started this process is gone: the pipe that it holds ends."""
    gone = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            while sys.stdin.buffer.read(4096):
                pass
        gone.set()

    threading.Thread(target=read, name="parent", daemon=True).start()
    return gone.is_set
