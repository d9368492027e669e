"""What cannot be used is refused when a receiver is to start, before it listens, in words that say what to do."""

from __future__ import annotations

import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from traceback import format_exception
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from cloudevents_kit import Event, Receiver
from cloudevents_kit.stores import StoreError, open_store
from tests.support.real_servers import Postgres
from tests.support.sql import execute

SECRET = "S3cret"
Case = Callable[[SimpleNamespace], AbstractContextManager[str]]


def _written(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as file, file:
        for statement in statements:
            file.execute(statement)
    return f"sqlite:///{path}"


@contextmanager
def newer(at: SimpleNamespace) -> Iterator[str]:
    yield _written(at.path, "CREATE TABLE cek_versions (version INTEGER)", "INSERT INTO cek_versions VALUES (99)")


@contextmanager
def foreign(at: SimpleNamespace) -> Iterator[str]:
    at.path.write_bytes(b"%PDF-1.7, and then so much that it could be a database" * 90)
    yield f"sqlite:///{at.path}"


@contextmanager
def corrupt(at: SimpleNamespace) -> Iterator[str]:
    _written(at.path, "CREATE TABLE mine (id)")
    content = at.path.read_bytes()
    at.path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    yield f"sqlite:///{at.path}"


@contextmanager
def read_only(at: SimpleNamespace) -> Iterator[str]:
    _written(at.path, "PRAGMA journal_mode=WAL", "CREATE TABLE mine (id)")
    yield f"sqlite:///file:{at.path}?mode=ro&uri=true"  # which holds for root, too


@contextmanager
def locked(at: SimpleNamespace) -> Iterator[str]:
    with closing(sqlite3.connect(at.path, isolation_level=None)) as file:
        file.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{at.path}"


@contextmanager
def folder(at: SimpleNamespace) -> Iterator[str]:
    yield f"sqlite:///{at.path.parent}"


@contextmanager
def no_folder(at: SimpleNamespace) -> Iterator[str]:
    yield f"sqlite:///{at.path.parent}/none/events.db"


@contextmanager
def two_slashes(at: SimpleNamespace) -> Iterator[str]:
    yield "sqlite://events.db"


@contextmanager
def question(at: SimpleNamespace) -> Iterator[str]:
    yield f"sqlite:///{at.path}?what.db"


@contextmanager
def unknown(at: SimpleNamespace) -> Iterator[str]:
    yield f"mysql://user:{SECRET}@host/events"


@contextmanager
def no_driver(at: SimpleNamespace) -> Iterator[str]:
    with patch.dict(sys.modules, {"aiosqlite": None}):
        yield f"sqlite:///{at.path}"


@contextmanager
def unreachable(at: SimpleNamespace) -> Iterator[str]:
    yield f"postgresql://user:{SECRET}@127.0.0.1:{at.port}/events"


@contextmanager
def unknown_host(at: SimpleNamespace) -> Iterator[str]:
    yield f"postgresql://user:{SECRET}@host.invalid/events"


@contextmanager
def port_of_another(at: SimpleNamespace) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        yield f"postgresql://user:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/events"


@contextmanager
def wrong_password(at: SimpleNamespace) -> Iterator[str]:
    yield at.server.url().replace("postgres@", f"guarded:{SECRET}@")


@contextmanager
def no_database(at: SimpleNamespace) -> Iterator[str]:
    yield at.server.url("none")


TABLE: dict[Case, str] = {
    newer: "is of a newer release: its tables have version 99.*install a newer cloudevents-kit",
    foreign: "is damaged, or is no SQLite database: restore it from a backup, or name another file",
    corrupt: "is damaged, or is no SQLite database: restore it from a backup, or name another file",
    read_only: "is read-only: let this process write it, the file and its folder",
    locked: "is locked by another program: end what holds the lock, or raise patience",
    folder: "cannot be opened: its folder must exist, it must be a file",
    no_folder: "cannot be opened: its folder must exist",
    two_slashes: "url: must name a file, such as sqlite:///events.db",
    question: r"url: takes no options after \? \(%3F stands for one in the name of the file\)",
    unknown: "url: must begin with .*sqlite:, postgresql:.*, not mysql:",
    no_driver: r'aiosqlite is not installed: pip install "cloudevents-kit\[sql\]"',
    unreachable: "cannot be reached: is the server running, and are address and port right",
    unknown_host: "cannot be reached: is the server running|does not answer",  # a resolver may take its time
    port_of_another: "does not answer",
    wrong_password: "refuses the user or the password of the URL",
    no_database: "does not exist: create it, or name another one",
}
ON_A_SERVER = (wrong_password, no_database)


@pytest.fixture
async def at(request: pytest.FixtureRequest, tmp_path: Path) -> SimpleNamespace:
    """Where a case finds what it needs: a file, a port at which nobody listens, a server that asks for passwords."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = SimpleNamespace(path=tmp_path / "events.db", port=port, server=None)
    if request.node.callspec.params["case"] in ON_A_SERVER:
        found.server = request.getfixturevalue("postgres")
        await _ask_for_password(found.server)
    return found


async def _ask_for_password(server: Postgres) -> None:
    rules = server.folder / "data" / "pg_hba.conf"
    rule = "local all guarded scram-sha-256\n"
    if not rules.read_text().startswith(rule):
        rules.write_text(rule + rules.read_text())
        await execute(server.url(), "CREATE ROLE guarded LOGIN PASSWORD 'another'", "SELECT pg_reload_conf()")


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.__name__)
async def test_a_receiver_does_not_start_with_a_store_that_cannot_be_used(case: Case, at: SimpleNamespace) -> None:
    handled: list[Event] = []
    patience = 30 if case in ON_A_SERVER else 0.2  # which answers at once, on a machine that is not busy
    told = pytest.RaisesExc(StoreError, match=TABLE[case])
    with case(at) as url, pytest.RaisesGroup(told, allow_unwrapped=True) as raised:
        receiver = Receiver(handled.append, resources=[open_store(url, patience=patience)], port=at.port)
        async with receiver:
            pytest.fail("it has started")
    assert SECRET not in "".join(format_exception(raised.value))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", at.port), timeout=1)


# What looks odd and is fine.


async def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "events.db").touch()
    async with open_store(f"sqlite:///{tmp_path / 'events.db'}") as store:
        assert await store.deduplication.claim("k", "t", 10) is None


async def test_a_database_of_a_program_keeps_what_it_has(tmp_path: Path) -> None:
    url = _written(tmp_path / "events.db", "CREATE TABLE mine (id)", "INSERT INTO mine VALUES (7)")
    async with open_store(url) as store:
        assert await store.deduplication.claim("k", "t", 10) is None
    assert await execute(url, "SELECT id FROM mine") == [(7,)]


async def test_a_relative_path_is_of_the_folder_in_which_the_store_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///events.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with store:
        assert await store.deduplication.claim("k", "t", 10) is None
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    assert (tmp_path / "events.db").exists()


@pytest.mark.parametrize(("written", "name"), [("a%20b.db", "a b.db"), ("100%25.db", "100%.db"), ("q%3F.db", "q?.db")])
async def test_what_is_percent_encoded_is_decoded(written: str, name: str, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/{written}"):
        assert (tmp_path / name).exists()
