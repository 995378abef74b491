"""The line between window and worker over real sockets: what is lost is asked for, what is wrong is refused."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from zmq import Event
from zmq.utils.monitor import parse_monitor_message

from app.acquire.scan import Scan
from app.errors import UsageError
from app.profile import load_profile
from app.worker import keys
from app.worker.link import Link, LinkState
from app.worker.message import Calibrated, Choose, Estimate, Hello, Ping, Pong, Said, ToWindow, Welcome, decode, encode
from app.worker.place import Elsewhere, OwnWorker, Worker
from app.worker.source import RecordedSource
from tests.worker.fakes import COMMAND, served

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 0)
    with scan.devices:
        scan.runner().run()
    return path


def until(condition: Callable[[], bool]) -> None:
    """For what nobody tells of."""
    never, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        never.wait(0.01)


class Listener:
    """What a link hears, and how to wait for it."""

    def __init__(self) -> None:
        self.heard: list[ToWindow] = []
        self.said: list[str] = []
        self._more = threading.Condition()

    def __call__(self, message: ToWindow) -> None:
        with self._more:
            self.heard.append(message)
            self._more.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._more:
            assert self._more.wait_for(condition, PATIENCE_S), (self.heard, self.said)

    def finals(self) -> set[float]:
        return {m.exposure_s for m in self.heard if isinstance(m, Estimate) and m.final}


class Tangled(RecordedSource):
    """Frames that come in disorder, twice or not at all, as over a bad line."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._left = [frame for frame in self.frames(self.order) if random.Random(frame.step).random() < 0.6]
        self._left += self._left[::3]
        random.Random(1).shuffle(self._left)

    def fresh(self):
        now, self._left = self._left[:3], self._left[3:]
        return now, self.committed


@contextmanager
def linked(worker: Worker, listener: Listener, **options) -> Iterator[Link]:
    link = Link(worker, heard=listener, say=listener.said.append, **options)
    link.start()
    link.want(True)
    try:
        yield link
    finally:
        link.end()
        link.join(PATIENCE_S)
        assert not link.alive


def test_frames_in_disorder_twice_and_missing_give_the_whole_run(scanned):
    listener = Listener()
    with served() as server, linked(Elsewhere(server.address), listener) as link:
        link.watch(Tangled(scanned), Choose(""))
        listener.until(lambda: len(listener.finals()) == 2)
        last = {m.exposure_s: m.frames for m in listener.heard if isinstance(m, Estimate)}
        assert last == {3e-4: 3, 3e-2: 3}
        assert any(isinstance(m, Calibrated) for m in listener.heard)
        assert link.status.state is LinkState.CONNECTED
        assert "fake" in link.status.where
    assert (server.refused, listener.said) == (0, [])


def test_a_worker_that_is_killed_is_started_again_and_catches_up(scanned):
    listener = Listener()
    worker = OwnWorker((sys.executable, *COMMAND), listener.said.append)
    with linked(worker, listener) as link:
        link.watch(RecordedSource(scanned), Choose(""))
        listener.until(lambda: len(listener.finals()) == 2)
        listener.heard.clear()
        first = worker.process
        first.kill()
        first.wait()
        listener.until(lambda: len(listener.finals()) == 2)
        assert link.status.restarts == 1
        second = worker.process
    assert "started again" in " ".join(listener.said)
    assert second.poll() is not None


def test_a_network_that_was_cut_is_tried_again(scanned):
    listener = Listener()
    with served() as server:
        address = server.address
    with linked(Elsewhere(address), listener) as link:
        link.watch(RecordedSource(scanned), Choose(""))
        with served(address):
            listener.until(lambda: len(listener.finals()) == 2)
        listener.heard.clear()
        # The same place, but a worker that knows nothing.
        with served(address):
            listener.until(lambda: len(listener.finals()) == 2)


def test_results_that_were_lost_come_again_after_a_hello(scanned):
    listener = Listener()
    with served() as server:
        with linked(Elsewhere(server.address), listener) as link:
            link.watch(RecordedSource(scanned), Choose(""))
            listener.until(lambda: len(listener.finals()) == 2)
            name = link._client
        with raw(server.address, name.encode()) as socket:
            socket.send_multipart(encode(Hello(name)))
            found = [receive(socket) for _ in range(4)]
    assert isinstance(found[0], Welcome)
    assert {m.exposure_s for m in found if isinstance(m, Estimate)} <= {3e-4, 3e-2}
    assert any(isinstance(m, Calibrated | Estimate) for m in found[1:])


NO_ANSWER = "reconstruction: no answer from {}; is it running, of this release, with these keys?"


def test_a_worker_that_never_answers_is_said_once_to_be_silent(monkeypatch):
    monkeypatch.setattr("app.worker.link.SILENT_S", 1.0)
    listener = Listener()
    with served() as server:
        address = server.address
    with linked(Elsewhere(address), listener) as link:
        until(lambda: link.status.state is LinkState.SILENT)
        pings = link._number
        until(lambda: link._number > pings + 3)
        assert listener.said == [NO_ANSWER.format(address.removeprefix("tcp://"))]
        with served(address):
            until(lambda: link.status.state is LinkState.CONNECTED)
        # It had answered: that it does so no longer is news again.
        until(lambda: len(listener.said) == 2)
        assert link.status.state is LinkState.SILENT


@pytest.mark.parametrize("given", ["none", "others"])
def test_with_the_wrong_keys_a_worker_is_silent(tmp_path, monkeypatch, given):
    monkeypatch.setattr("app.worker.link.SILENT_S", 0.5)
    for name in ("own", "others"):
        keys.make_keys(tmp_path / name)
    held = None if given == "none" else keys.client_keys(tmp_path / given)
    listener = Listener()
    with served(keys=keys.server_keys(tmp_path / "own")) as server:
        with linked(Elsewhere(server.address), listener, keys=held) as link:
            until(lambda: link.status.state is LinkState.SILENT and bool(listener.said))
        assert listener.said == [NO_ANSWER.format(server.address.removeprefix("tcp://"))]


def test_a_worker_of_another_release_is_silent(monkeypatch):
    monkeypatch.setattr("app.worker.link.SILENT_S", 0.5)
    listener = Listener()

    def older(message):
        head, *rest = encode(message)
        assert b'"ptychoscope":' in head
        return [re.sub(rb'"ptychoscope":\d+', b'"ptychoscope":0', head), *rest]

    with served() as server:
        monkeypatch.setattr("app.worker.link.encode", older)
        with linked(Elsewhere(server.address), listener) as link:
            until(lambda: link.status.state is LinkState.SILENT and bool(listener.said))
    assert listener.said == [NO_ANSWER.format(server.address.removeprefix("tcp://"))]
    assert server.refused > 0


def test_a_worker_that_cannot_be_started_is_told_once_and_tried_again(tmp_path, monkeypatch):
    folder, listener = tmp_path / "gone", Listener()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("app.worker.link.AGAIN_S", (0.01,))
    worker = OwnWorker((sys.executable, *COMMAND), listener.said.append)
    with linked(worker, listener) as link:
        until(lambda: link._attempts > 2)
        assert link.alive
        assert link.status.state is LinkState.STARTING
        folder.mkdir()
        until(lambda: link.status.state is LinkState.CONNECTED)
        assert link.status.restarts == 0
    (told,) = listener.said
    assert told.startswith("reconstruction: there is no worker: ")
    assert str(folder) in told
    assert told.endswith("; it is tried again")


def test_an_address_that_is_none_is_told_once_and_ends_nothing(monkeypatch):
    monkeypatch.setattr("app.worker.link.AGAIN_S", (0.01,))
    listener, place = Listener(), Elsewhere("tcp://nowhere")
    with served() as server, linked(place, listener) as link:
        until(lambda: link._attempts > 2)
        place.address = server.address
        until(lambda: link.status.state is LinkState.CONNECTED)
    assert len(listener.said) == 1
    assert "there is no worker" in listener.said[0]


@contextmanager
def raw(address: str, identity: bytes = b"somebody") -> Iterator[zmq.Socket]:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.connect(address)
    try:
        yield socket
    finally:
        socket.close(0)
        context.term()


def receive(socket: zmq.Socket):
    assert socket.poll(1000 * PATIENCE_S)
    return decode(socket.recv_multipart())


def test_malformed_messages_are_refused_counted_and_end_nothing(scanned):
    source = RecordedSource(scanned)
    (frame,) = source.frames(source.order[:1])
    junk = [
        [b""],
        [b"\x80\x04\x95pickle"],
        [b"{}", b"more"],
        encode(frame)[:1],
        encode(Pong(0, "", (), (), (), 0, 0, 0, "")),
    ]
    with served() as server, raw(server.address) as socket:
        for parts in junk:
            socket.send_multipart(parts)
        socket.send_multipart(encode(Ping(5)))
        pong = receive(socket)
        assert (pong.number, pong.refused) == (5, len(junk))
        assert len(server.said) == len(junk)
        assert all(line.startswith("refused: ") and "\n" not in line for line in server.said)
        # A frame that fits no run is left alone; one that contradicts its run is refused.
        socket.send_multipart(encode(source.begin))
        step = encode(frame)
        step[0] = step[0].replace(b'"position_index":-1', b'"position_index":99')
        socket.send_multipart(step)
        socket.send_multipart(encode(Ping(6, source.begin.run)))
        answers = [receive(socket), receive(socket)]
        assert "is not in its plan" in answers[0].words
        assert answers[1].refused == len(junk) + 1


def test_with_keys_only_who_has_them_is_let_in(tmp_path, scanned):
    folder, others = tmp_path / "keys", tmp_path / "others"
    keys.make_keys(folder)
    keys.make_keys(others)
    listener = Listener()
    with served(keys=keys.server_keys(folder)) as server:
        with raw(server.address) as stranger, linked(Elsewhere(server.address), Listener()):
            # Once it has been turned away there is nobody to send to.
            with suppress(zmq.Again):
                stranger.send_multipart(encode(Ping(1)), zmq.NOBLOCK)
            with linked(Elsewhere(server.address), listener, keys=keys.client_keys(folder)) as link:
                link.watch(RecordedSource(scanned), Choose(""))
                listener.until(lambda: len(listener.finals()) == 2)
            assert not stranger.poll(0)
        assert len(server._windows) == 1
        known = keys.client_keys(folder)
        wrong = keys.ClientKeys(keys.client_keys(others).public, keys.client_keys(others).secret, known.server)
        with linked(Elsewhere(server.address), Listener(), keys=wrong) as link:
            link.watch(RecordedSource(scanned), Choose(""))
            with linked(Elsewhere(server.address), listener, keys=known) as own:
                listener.heard.clear()
                own.watch(RecordedSource(scanned), Choose(""))
                listener.until(lambda: len(listener.finals()) == 2)
            assert link.status.state is not LinkState.CONNECTED
    with pytest.raises(UsageError, match="holds keys already"):
        keys.make_keys(folder)
    (folder / "client.key").unlink()
    with pytest.raises(UsageError, match=r"client\.key: is no key"):
        keys.server_keys(folder)


def test_with_nobody_to_ask_about_keys_nobody_is_let_in(tmp_path):
    folder = tmp_path / "keys"
    keys.make_keys(folder)
    with served(keys=keys.server_keys(folder)) as server:
        server._guard.stop()
        server._guard = None
        context = zmq.Context()
        socket, own = context.socket(zmq.DEALER), keys.client_keys(folder)
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = own.public, own.secret, own.server
        monitor = socket.get_monitor_socket()
        ends = (Event.HANDSHAKE_SUCCEEDED, Event.DISCONNECTED, Event.HANDSHAKE_FAILED_NO_DETAIL)
        socket.connect(server.address)
        seen = Event.CONNECTED
        while seen not in ends:
            assert monitor.poll(int(1e3 * PATIENCE_S))
            seen = parse_monitor_message(monitor.recv_multipart())["event"]
        assert seen != Event.HANDSHAKE_SUCCEEDED
        socket.disable_monitor()
        context.destroy(0)


def test_what_has_come_when_it_ends_is_heard_and_kept():
    listener, kept = Listener(), []
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    held: list[zmq.Socket] = []
    there, released = threading.Event(), threading.Event()

    def idle() -> None:
        kept.append(len(listener.heard))
        if len(kept) == 1:
            there.set()
            released.wait(PATIENCE_S)
            # They are here, and nobody has taken them in.
            assert held[0].poll(int(1e3 * PATIENCE_S))

    link = Link(Elsewhere(f"tcp://127.0.0.1:{port}"), None, listener, listener.said.append, idle)
    connect = link._connect
    link._connect = lambda own: held.append(connect(own)) or held[-1]
    link.start()
    link.want(True)
    assert there.wait(PATIENCE_S)
    who, *_ = router.recv_multipart()
    for number in range(3):
        router.send_multipart([who, *encode(Said("run", "estimate", f"{number}"))])
    link.end()
    released.set()
    link.join(PATIENCE_S)
    assert not link.alive
    assert [message.words for message in listener.heard] == ["0", "1", "2"]
    assert kept == [0, 3]
    assert listener.said == []
    context.destroy(0)


@pytest.mark.parametrize(
    ("text", "keyed", "address"),
    [
        ("127.0.0.1:5577", False, "tcp://127.0.0.1:5577"),
        ("localhost:1", False, "tcp://localhost:1"),
        ("[::1]:5", False, "tcp://[::1]:5"),
        ("gpu.lab:5577", True, "tcp://gpu.lab:5577"),
    ],
)
def test_addresses(text, keyed, address):
    assert keys.address_of(text, keyed) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [("gpu.lab:5577", "give --keys"), ("0.0.0.0:5577", "give --keys"), ("5577", "HOST:PORT"), ("a:b", "HOST:PORT")],
)
def test_addresses_beyond_this_machine_take_keys(text, words):
    with pytest.raises(UsageError, match=words):
        keys.address_of(text, False)
