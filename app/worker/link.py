"""The window's end of the line to a worker: a thread that sends what comes, answers what is asked, and never holds up
anybody. What gets lost on the way, the worker asks for again; a worker of our own that dies is started anew.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import zmq

from app.errors import known_message
from app.worker.keys import ClientKeys
from app.worker.message import (
    MOST_BYTES,
    Choose,
    Hello,
    Key,
    MessageError,
    Ping,
    Pong,
    ToWindow,
    ToWorker,
    Welcome,
    decode,
    encode,
)
from app.worker.place import AGAIN_S, Worker
from app.worker.source import Source

POLL_MS = 20
PING_S = 0.4
SILENT_S = 4.0
"""A worker that has not answered for so long is said to be silent."""
WAITING = 16
"""Messages that may wait on the way to the worker; what comes meanwhile is sent when it is asked for."""
LAST_S = 0.5
"""At the end what has come already is taken in for so long."""


class LinkState(StrEnum):
    OFF = "off"
    STARTING = "starting"
    CONNECTED = "connected"
    SILENT = "no answer"


@dataclass(frozen=True)
class LinkStatus:
    """How it stands with the worker.

    Attributes:
        state: of the connection.
        where: it computes: address and device.
        behind: frames committed and not yet in an image.
        doing: what the worker works on.
        restarts: how often a worker of our own has been started again.
        refused: messages that were malformed, here and there.
        run: that it knows.
    """

    state: LinkState = LinkState.OFF
    where: str = ""
    behind: int = 0
    doing: str = ""
    restarts: int = 0
    refused: int = 0
    run: str = ""


class Link:
    """See above. `start` it once, `end` it once; everything in between from any thread.

    Args:
        worker: where it is.
        keys: for one beyond this machine.
        heard: told of every result, in the link's thread, before it can be taken from `results`.
        idle: called a few times a second and once more at the end, in the link's thread.
        say: told what goes wrong, for people.

    Attributes:
        results: what came back, in order, if `gathered`: whether somebody takes it from there.
    """

    def __init__(
        self,
        worker: Worker,
        keys: ClientKeys | None = None,
        heard: Callable[[ToWindow], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
        idle: Callable[[], None] = lambda: None,
    ):
        self._worker, self._keys, self._heard, self._say, self._idle = worker, keys, heard, say, idle
        self._stumbled = False
        self.results: queue.SimpleQueue[ToWindow] = queue.SimpleQueue()
        self.gathered = False
        self._client = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._choice: Choose | None = None
        self._told: list[object] = []
        self._status = LinkStatus()
        self._wanted = False
        self._over = False
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._number = 0
        self._refused = 0
        self._answered = self._pinged = 0.0
        self._sent: Key = (0, 0)
        self._ended = ""
        self._welcomed = False
        self._missed = ""
        self._hindered = ""
        self._attempts, self._next = 0, 0.0

    # ---- From any thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    @property
    def status(self) -> LinkStatus:
        return self._status

    def want(self, wanted: bool) -> None:
        """Have a worker from now on, or none: it takes half a gigabyte and some seconds to begin with."""
        self._wanted = wanted

    def watch(self, source: Source | None, choice: Choose | None) -> None:
        """Follow another run, or none."""
        with self._lock:
            self._source, self._choice = source, choice
            self._sent, self._ended = (0, 0), ""

    def choose(self, choice: Choose) -> None:
        """Reconstruct the run that is followed with other settings."""
        with self._lock:
            self._choice = choice
            self._told = []

    def end(self) -> None:
        """The thread takes in what has come, lets the worker end and ends itself; nobody has to wait for it."""
        self._over = True

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    # ---- The thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        socket: zmq.Socket | None = None
        try:
            while not self._over:
                if not self._wanted:
                    if self._status.state is not LinkState.OFF:
                        if socket is not None:
                            socket.close(0)
                        socket = None
                        self._worker.end()
                        self._status, self._missed = LinkStatus(), ""
                    time.sleep(POLL_MS / 1e3)
                    continue
                socket = self._looked(context, socket)
                if socket is None:
                    self._tell(LinkState.STARTING)
                    time.sleep(POLL_MS / 1e3)
                    continue
                if socket.poll(POLL_MS):
                    self._hear(socket)
                self._say_something(socket)
        finally:
            if socket is not None:
                self._last(socket)
                socket.close(0)
            self._guarded(self._idle)
            self._worker.end()
            self._status = replace(self._status, state=LinkState.OFF)
            context.term()

    def _last(self, socket: zmq.Socket) -> None:
        """What has come by now is heard."""
        end = time.monotonic() + LAST_S
        while time.monotonic() < end and socket.poll(POLL_MS):
            self._hear(socket)

    def _looked(self, context: zmq.Context, socket: zmq.Socket | None) -> zmq.Socket | None:
        """The socket to the worker by now. What hinders its start is said once, and tried again after a while."""
        if time.monotonic() < self._next:
            return socket
        try:
            if self._worker.look() or (socket is None and self._worker.address is not None):
                if socket is not None:
                    socket.close(0)
                    socket = None
                socket = self._connect(context)
                self._hindered, self._attempts = "", 0
        except Exception as error:
            # A temporary folder that is full, no memory for another process, a name that nobody knows.
            words = known_message(error) or f"{type(error).__name__}: {error}"
            # Not by its words: each try names another folder.
            kind = f"{type(error).__name__} {getattr(error, 'errno', '')}"
            if kind != self._hindered:
                self._hindered = kind
                self._say(f"reconstruction: there is no worker: {words}; it is tried again")
            self._next = time.monotonic() + AGAIN_S[min(self._attempts, len(AGAIN_S) - 1)]
            self._attempts += 1
        return socket

    def _connect(self, context: zmq.Context) -> zmq.Socket:
        socket = context.socket(zmq.DEALER)
        try:
            self._set_up(socket)
        except BaseException:
            # The context waits for it at the end.
            socket.close(0)
            raise
        self._answered, self._pinged, self._welcomed = time.monotonic(), 0.0, False
        self._tell(LinkState.STARTING)
        return socket

    def _set_up(self, socket: zmq.Socket) -> None:
        for name, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, WAITING),
            (zmq.MAXMSGSIZE, MOST_BYTES),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
            # A cable that was pulled says nothing: the connection is given up, and tried again.
            (zmq.HEARTBEAT_IVL, 1000),
            (zmq.HEARTBEAT_TIMEOUT, 5000),
            (zmq.IPV6, int("[" in (self._worker.address or ""))),
        ):
            socket.setsockopt(name, value)
        socket.setsockopt_string(zmq.IDENTITY, self._client)
        if self._keys is not None:
            socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
            socket.curve_serverkey = self._keys.server
        assert self._worker.address is not None
        socket.connect(self._worker.address)

    def _say_something(self, socket: zmq.Socket) -> None:
        with self._lock:
            source = self._source
        now = time.monotonic()
        if source is not None:
            # In this order: a run that is over by now has nothing more to come.
            ended = source.ended
            fresh, committed = source.fresh()
            for frame in fresh:
                self._send(socket, frame)
            with self._lock:
                if source is self._source:
                    self._sent, self._ended = committed, ended
        if now - self._pinged >= PING_S:
            if not self._welcomed:
                self._send(socket, Hello(self._client))
            self._ping(socket, source)
            self._guarded(self._idle)
            if now - self._answered > SILENT_S and self._status.state is not LinkState.SILENT:
                # Whoever answers next may be another one, or have results that were lost.
                self._welcomed = False
                self._tell(LinkState.SILENT)
                self._miss()

    def _miss(self) -> None:
        """Say once that nobody answers at this address, until somebody has."""
        address = self._worker.address or ""
        if self._worker.remedy and self._missed != address:
            self._missed = address
            self._say(f"reconstruction: no answer from {address.removeprefix('tcp://')}; {self._worker.remedy}")

    def _guarded(self, act: Callable[[], None]) -> None:
        """What goes wrong with a result is said once, and ends nothing."""
        try:
            act()
        except Exception as error:
            if not self._stumbled:
                self._stumbled = True
                self._say(f"reconstruction: a result cannot be used: {type(error).__name__}: {error}")

    def _ping(self, socket: zmq.Socket, source: Source | None) -> None:
        self._number += 1
        self._pinged = time.monotonic()
        run = "" if source is None else source.begin.run
        left_out = () if source is None else source.left_out
        self._send(socket, Ping(self._number, run, self._sent, self._ended, left_out))

    def _hear(self, socket: zmq.Socket) -> None:
        for _ in range(WAITING):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode(parts)
            except MessageError as error:
                self._refused += 1
                if self._refused == 1:
                    self._say(f"reconstruction: {error}")
                continue
            self._answered = time.monotonic()
            if isinstance(message, Welcome):
                self._welcomed, self._missed = True, ""
                where = (self._worker.address or "").removeprefix("tcp://")
                self._tell(LinkState.CONNECTED, where=f"{where}, {message.device}")
            elif isinstance(message, Pong):
                self._answer(socket, message)
            else:
                result: ToWindow = message  # type: ignore[assignment]
                self._guarded(lambda result=result: self._heard(result))  # type: ignore[misc]
                if self.gathered:
                    self.results.put(result)

    def _answer(self, socket: zmq.Socket, pong: Pong) -> None:
        refused = self._refused + pong.refused
        state = LinkState.CONNECTED if self._welcomed else self._status.state
        self._tell(state, behind=pong.behind, doing=pong.doing, refused=refused, run=pong.run)
        with self._lock:
            source, choice = self._source, self._choice
        if source is None:
            return
        if "begin" in pong.needs:
            # Anew: everything else follows when the next pong asks for it.
            self._told = []
            self._send(socket, source.begin)
            if choice is not None:
                self._send(socket, replace(choice, run=source.begin.run))
            self._ping(socket, source)
            return
        if pong.run != source.begin.run:
            return
        wants = choice is not None and ("choose" in pong.needs or choice not in self._told)
        if choice is not None and wants and self._send(socket, replace(choice, run=pong.run)):
            self._told.append(choice)
        with _told_once(self._say, self._told):
            asked: list[ToWorker | None] = []
            if "carried" in pong.needs:
                asked.append(source.carried())
            if "calibrated" in pong.needs:
                asked.append(source.calibrated())
            asked += [source.darks(exposure) for exposure in pong.darks]
            asked += source.frames(pong.lacks)
            sent = [self._send(socket, message) for message in asked if message is not None]
            if any(sent):
                # There may be more: no need to wait for the next turn.
                self._ping(socket, source)

    def _send(self, socket: zmq.Socket, message: ToWorker) -> bool:
        """False when the line is full; what was to be sent is asked for again."""
        try:
            socket.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _tell(self, state: LinkState, **changes: object) -> None:
        restarts = self._worker.restarts
        self._status = replace(self._status, state=state, restarts=restarts, **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def _told_once(say: Callable[[str], None], told: list[object]) -> Iterator[None]:
    """A file that cannot be read is told once and tried again."""
    try:
        yield
    except Exception as error:
        words = known_message(error)
        if words is None:
            words = f"{type(error).__name__}: {error}; please report this"
        if words not in told:
            told.append(words)
            say(f"reconstruction: {words}")
