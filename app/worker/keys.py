"""Who may talk to a worker over a network: CURVE keys in a folder, one pair for the worker and one for its windows.

    server.key, server.key_secret      the worker's; a window needs server.key
    client.key, client.key_secret      the windows'; a worker needs client.key alone

Whoever holds client.key_secret may reconstruct here; everything that is sent is encrypted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import zmq
import zmq.auth
from zmq.utils import z85

from app.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerKeys:
    """A worker's: its own pair, and the windows' public key."""

    public: bytes
    secret: bytes
    client: bytes


@dataclass(frozen=True)
class ClientKeys:
    """A window's: its own pair, and the worker's public key."""

    public: bytes
    secret: bytes
    server: bytes


KEY_LENGTH = 40
"""Characters of a key in Z85."""


def make_keys(folder: Path) -> None:
    """New pairs in a folder. Raises `UsageError`: there are some already, or it cannot be written."""
    if any((folder / f"{name}.key").exists() for name in ("server", "client")):
        raise UsageError(f"{folder}: holds keys already; use them, or choose another folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not for a moment may anybody else read them.
        before = os.umask(0o077)
        try:
            for name in ("server", "client"):
                _, secret = zmq.auth.create_certificates(str(folder), name)
                Path(secret).chmod(0o600)
        finally:
            os.umask(before)
    except OSError as error:
        raise UsageError(f"{folder}: keys cannot be written ({error.strerror}); choose a writable folder") from None


def server_keys(folder: Path) -> ServerKeys:
    """Raises `UsageError`: a key is missing or damaged."""
    public, secret = _pair(folder, "server.key_secret")
    return ServerKeys(public, secret, _pair(folder, "client.key")[0])


def client_keys(folder: Path) -> ClientKeys:
    """Raises `UsageError`: a key is missing or damaged."""
    public, secret = _pair(folder, "client.key_secret")
    return ClientKeys(public, secret, _pair(folder, "server.key")[0])


def _pair(folder: Path, name: str) -> tuple[bytes, bytes]:
    try:
        public, secret = zmq.auth.load_certificate(folder / name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / name}: is no key ({error}); serve --make-keys {folder} makes them") from None
    if name.endswith("_secret") and secret is None:
        raise UsageError(f"{folder / name}: holds no secret key; serve --make-keys {folder} makes them")
    for key in (public, secret):
        try:
            whole = key is None or (len(key) == KEY_LENGTH and len(z85.decode(key)) == 32)
        except (ValueError, KeyError):
            whole = False
        if not whole:
            raise UsageError(f"{folder / name}: a key in it is damaged; serve --make-keys makes a pair anew")
    return public, secret or b""


def address_of(text: str, keyed: bool) -> str:
    """`host:port` as an address; beyond this machine only with keys. Raises `UsageError`."""
    try:
        parts = urlsplit(f"tcp://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None:
        raise UsageError(f"{text!r}: is no HOST:PORT; give for instance 127.0.0.1:5577")
    if host not in LOOPBACK and not keyed:
        raise UsageError(f"{text}: is beyond this machine, where anybody may listen; give --keys FOLDER")
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
