"""`ptychoscope serve`: keys before it listens beyond this machine, and a process that ends with its window."""

from __future__ import annotations

import json
import signal

import pytest

from app.cli import app
from app.errors import run_guarded
from app.worker.link import Link, LinkState
from app.worker.place import OwnWorker
from tests.worker.test_link import Listener


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = run_guarded(lambda: app(list(arguments), standalone_mode=False))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_keys_are_made_once(capsys, tmp_path):
    folder = str(tmp_path / "keys")
    code, out, _ = call(capsys, "serve", "--make-keys", folder, "--json")
    assert code == 0
    assert json.loads(out)["keys"] == folder
    assert (tmp_path / "keys" / "server.key_secret").stat().st_mode & 0o077 == 0
    code, _, err = call(capsys, "serve", "--make-keys", folder)
    assert code == 2
    assert "holds keys already" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--listen", "0.0.0.0:5577"], "give --keys"),
        (["serve", "--listen", "here"], "HOST:PORT"),
        (["serve", "--keys", "/nowhere"], "is no key"),
        (["gui", "--server", "gpu.lab:5577"], "give --keys"),
        (["gui", "--keys", "/nowhere"], "--server"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, arguments, words):
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_the_real_worker_answers_and_ends_with_its_window():
    listener = Listener()
    worker = OwnWorker(say=listener.said.append)
    link = Link(worker, heard=listener, say=listener.said.append, idle=lambda: listener(None))
    link.start()
    link.want(True)
    listener.until(lambda: link.status.state is LinkState.CONNECTED)
    assert link.status.where.startswith("127.0.0.1:")
    process = worker.process
    # Ctrl-C at a terminal is for whoever started it.
    process.send_signal(signal.SIGINT)
    link.end()
    link.join(30)
    assert process.poll() == 0
    assert listener.said == []


def test_a_damaged_key_is_found_before_anything_listens(capsys, tmp_path):
    folder = tmp_path / "keys"
    call(capsys, "serve", "--make-keys", str(folder))
    path = folder / "client.key"
    text = path.read_text()
    start = text.index('public-key = "') + len('public-key = "')
    path.write_text(text[:start] + "abc" + text[start + 40 :])
    code, _, err = call(capsys, "serve", "--keys", str(folder), "--listen", "127.0.0.1:0")
    assert code == 2
    assert "a key in it is damaged" in err
