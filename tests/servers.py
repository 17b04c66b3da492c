"""A private PostgreSQL server for tests, which can be stopped and started, and a network between it and its clients."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

_BINARIES = Path("/usr/lib/postgresql")
_ACCOUNT = "postgres"  # a server refuses to run as root
_USER = "search"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # tests stop the server, not the machine
    "shared_buffers": "16MB",
    "max_connections": "60",
}


class Server:
    """A server with its own folder, port and password; only this host reaches it.

    Args:
        binaries: folder of initdb and pg_ctl.

    Attributes:
        port: that it listens on.
        password: of its only user.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="postgres."))
        self.port = free_port()
        self.password = secrets.token_hex(8)
        secret = self._folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self._folder, secret):
                shutil.chown(path, _ACCOUNT)
        self._call("initdb", "-D", self._data, "-U", _USER, "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync")

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def url(self, database: str = "postgres", port: int | None = None, password: str | None = None) -> str:
        """The URL of a database, through another port or with another password if given."""
        given = self.password if password is None else password
        return f"postgresql+psycopg://{_USER}:{given}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self._folder)}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._call("pg_ctl", "-D", self._data, "-l", str(self._folder / "log"), "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: "immediate" as a crash would, "fast" in good order."""
        self._call("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of a transaction."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def remove(self) -> None:
        """Stop it and delete its folder."""
        with contextlib.suppress(subprocess.CalledProcessError):  # a test may have left it stopped
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> None:
        account = ["runuser", "-u", _ACCOUNT, "--"] if os.geteuid() == 0 else []
        command = [*account, str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Network:
    """Passes bytes on between clients of a port of its own and a server, until told otherwise.

    Args:
        server: the server's port on this host.

    Attributes:
        port: for clients.
        delay: seconds that every piece of an answer takes.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self.delay = 0.0
        self._lost: bytes | None = None
        self._skipped = 0
        self._is_silent = False
        self._is_cut = False
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and every new one at once."""
        self._is_cut = True
        self._break()

    def silence(self) -> None:
        """Swallow everything and break nothing, as a firewall or a pulled plug does."""
        self._is_silent = True

    def lose_answer_to(self, sent: bytes, skip: int = 0) -> None:
        """Pass on a piece that holds `sent`, and break its connection when the server has answered it.

        Args:
            sent: what the piece holds.
            skip: pieces that hold it, to be passed on and answered before.
        """
        self._lost, self._skipped = sent, skip

    @property
    def has_lost(self) -> bool:
        """Whether the answer that was to be lost is lost."""
        return self._lost is None

    def mend(self) -> None:
        """Pass everything on again; connections that were silent are broken."""
        if self._is_silent:
            self._break()
        self._is_cut = self._is_silent = False

    def close(self) -> None:
        """End."""
        self._listener.close()
        self._break()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            pair = _Pair(client, server)
            for passing in (self._upwards, self._downwards):
                threading.Thread(target=passing, args=(pair,), daemon=True).start()

    def _upwards(self, pair: _Pair) -> None:
        for piece in pair.pieces(pair.client):
            if self._lost is not None and self._lost in piece:
                self._skipped -= 1
                if self._skipped < 0:
                    self._lost = None
                    pair.is_doomed = True
            if not self._is_silent:
                pair.pass_on(pair.server, piece)

    def _downwards(self, pair: _Pair) -> None:
        for piece in pair.pieces(pair.server):
            if pair.is_doomed:
                pair.end()
                return
            time.sleep(self.delay)
            if not self._is_silent:
                pair.pass_on(pair.client, piece)

    def _break(self) -> None:
        with self._lock:
            broken, self._sockets = self._sockets, set()
        for each in broken:
            _end(each)


class _Pair:
    """The two ends of a connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.is_doomed = False

    def pieces(self, source: socket.socket) -> Iterator[bytes]:
        """What arrives, until either end is closed; then both are."""
        with contextlib.suppress(OSError):
            while piece := source.recv(2**16):
                yield piece
        self.end()

    def pass_on(self, target: socket.socket, piece: bytes) -> None:
        with contextlib.suppress(OSError):
            target.sendall(piece)

    def end(self) -> None:
        _end(self.client)
        _end(self.server)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _binaries() -> Path:
    """Where Debian keeps the newest server. Skips the test where there is none that can be run."""
    found = sorted(_BINARIES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip(f"no PostgreSQL server in {_BINARIES}")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_ACCOUNT)
        except KeyError:
            pytest.skip(f"PostgreSQL does not run as root, and there is no account {_ACCOUNT!r}")
    return found[-1].parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A private server that is up; a test that stops it starts it again."""
    server = Server(_binaries())
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgres(postgres_server: Server) -> str:
    """The URL, with the password, of a private server's database that all tests share."""
    return postgres_server.url()


@pytest.fixture
def postgres_database(postgres_server: Server) -> Iterator[str]:
    """The URL of a fresh database."""
    name = f"test_{secrets.token_hex(4)}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def network(postgres_server: Server) -> Iterator[Network]:
    """A network to the private server."""
    between = Network(postgres_server.port)
    yield between
    between.close()


def through(network: Network, url: str) -> str:
    """The same database through a network."""
    return make_url(url).set(port=network.port).render_as_string(hide_password=False)
