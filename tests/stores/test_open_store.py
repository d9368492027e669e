"""What `open_store` opens; and what it refuses, before any event is accepted, in words that say what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiosqlite
import pytest

from cloudevents_kit.stages import DedupeStore, QueueStore, WindowStore
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores._store import Scope
from tests.support.events import new
from tests.support.lives import program
from tests.support.openers import PROCESSES
from tests.support.real_servers import Postgres
from tests.support.sql import execute

SECRET = "S3cret"


async def refused(url: str, patience: float = 0.1) -> str:
    """Open ``url``, which must fail; return what that says, and to nobody what is secret."""
    with pytest.raises(StoreError) as raised:
        async with open_store(url, patience=patience):
            pass
    assert SECRET not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("url", ["mysql://host/db", "events.db", "", f"user:{SECRET}@host", f"{SECRET}@host:1/db"])
async def test_an_unknown_scheme_is_refused_with_those_that_are_known(url: str) -> None:
    assert "must begin with memory:, sqlite:, postgresql:" in await refused(url)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("sqlite:///x.db", "sqlalchemy", "sql"),
        ("sqlite:///x.db", "aiosqlite", "sql"),
        ("postgresql://host/db", "asyncpg", "postgres"),
    ],
)
async def test_a_missing_package_is_named_with_its_extra(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert await refused(url) == f'{package} is not installed: pip install "cloudevents-kit[{extra}]"'


async def test_a_driver_that_lacks_what_is_used_of_it_is_refused_with_one_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(aiosqlite.Connection, "_execute")
    assert "pip install 'aiosqlite<0.23'" in await refused("sqlite:///x.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_a_database_in_memory_is_refused_with_what_to_take_instead(url: str) -> None:
    assert "memory:" in await refused(url)


async def test_memory_has_no_name() -> None:
    assert "nothing more" in await refused("memory:shared")


async def test_a_url_that_is_none_is_refused() -> None:
    assert "url: is none" in await refused(f"postgresql://user:{SECRET}@host:port/db")


@pytest.mark.parametrize("given", [{"url": 7}, {"url": "memory:", "patience": 0}])
async def test_wrong_arguments_are_refused(given: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        open_store(**given)  # type: ignore[arg-type]


# What is opened.


async def works(scope: Scope) -> bool:
    """Return whether the stores of ``scope`` are empty, and use each of them."""
    claimed = await scope.deduplication.claim("k", "t", 10) is None
    added = await scope.windows.add(0, "", ("/s", "1"), [1], lambda one, _: one, anywhere=False)
    empty = await scope.queue.lease(0.001) is None
    assert await scope.queue.put(new(id="1"), key=None, capacity=10)
    return claimed and empty and added == "counted"


async def test_every_kind_has_its_stores_and_scopes_of_them() -> None:
    async with open_store("memory:") as store:
        await _check_scopes(store)


async def test_a_database_has_its_stores_and_scopes_of_them(url: str) -> None:
    async with open_store(url) as store:
        await _check_scopes(store)
    async with open_store(url) as store:
        assert not await works(store.scoped("a"))


async def _check_scopes(store: Scope) -> None:
    assert isinstance(store.deduplication, object)
    found: tuple[DedupeStore, WindowStore, QueueStore] = (store.deduplication, store.windows, store.queue)
    assert found == (store.deduplication, store.windows, store.queue)
    assert await works(store)
    scoped = getattr(store, "scoped")  # noqa: B009 - a scope has none
    assert await works(scoped("a"))
    assert await works(scoped("b"))
    assert not await works(scoped("a"))
    assert scoped("a") is scoped("a")


@pytest.mark.parametrize("url", ["memory:", "sqlite:///x.db", "redis://host"])
def test_a_scope_has_a_name_in_every_kind_of_store(url: str) -> None:
    store = open_store(url)
    with pytest.raises(TypeError, match="name: must be a str"):
        store.scoped(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name: must not be empty"):
        store.scoped("")


def test_what_a_store_does_not_keep_is_said_when_it_is_asked_for() -> None:
    for name in ("deduplication", "windows", "queue"):
        with pytest.raises(StoreError, match=f"{name}: this does not keep it"):
            getattr(Scope(), name)


async def test_a_store_is_used_only_while_it_is_open(url: str) -> None:
    store = open_store(url)
    for _ in range(2):
        with pytest.raises(StoreError, match="is not open: use it within"):
            await store.deduplication.claim("k", "t", 10)
        async with store:
            assert await store.deduplication.claim("k", "t", 10) is None


async def test_several_processes_may_open_a_new_database_at_once(url: str) -> None:
    async with program("tests.support.openers", url) as process:
        printed, _ = await process.communicate()
    assert printed.split() == [b"0"] * PROCESSES + [b"1"]


# What is refused.


async def test_tables_of_a_newer_release_are_refused(url: str) -> None:
    async with open_store(url):
        pass
    await execute(url, "INSERT INTO cek_versions VALUES (99)")
    text = await refused(url)
    assert "is of a newer release: its tables have version 99" in text
    assert "install a newer cloudevents-kit" in text


async def test_tables_of_an_older_release_are_completed(url: str) -> None:
    async with open_store(url):
        pass
    await execute(url, "DROP TABLE cek_queue", "DELETE FROM cek_versions WHERE version >= 3")
    async with open_store(url) as store:
        assert await store.queue.put(new(), key=None, capacity=1)


async def test_a_file_that_is_none_of_sqlite_is_refused_and_left_alone(tmp_path: Path) -> None:
    content = b"no database at all, but long enough to be one" * 30
    path = tmp_path / "events.db"
    path.write_bytes(content)
    assert "is damaged, or is no SQLite database: restore it" in await refused(f"sqlite:///{path}")
    assert path.read_bytes() == content


async def test_a_file_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with open_store(f"sqlite:///{path}"):
        pass
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 3996 + path.read_bytes()[4096:])
    assert "is damaged" in await refused(f"sqlite:///{path}")


async def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "its folder must exist" in await refused(f"sqlite:///{tmp_path}/none/events.db")


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder with a database that this process may read, but not write; root becomes somebody else for that."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "events.db"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("CREATE TABLE other (id)")
    file.close()
    path.chmod(0o444)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield path
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


async def test_a_file_that_cannot_be_written_is_refused(readable: Path) -> None:
    text = await refused(f"sqlite:///{readable}")
    assert "is read-only: let this process write it" in text or "must be allowed to write there" in text


async def test_a_file_that_stays_locked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with sqlite3.connect(path, isolation_level=None) as file:
        file.execute("BEGIN EXCLUSIVE")
        text = await refused(f"sqlite:///{path}")
    file.close()
    assert "is locked by another program" in text
    async with open_store(f"sqlite:///{path}"):
        pass


async def test_a_server_that_is_not_there_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    url = f"postgresql://user:{SECRET}@/events?host={tmp_path}"
    assert "the PostgreSQL database events cannot be reached" in await refused(url)


async def test_a_database_or_a_user_that_does_not_exist_is_refused_at_once(postgres: Postgres) -> None:
    assert "does not exist: create it" in await refused(postgres.url("none"), patience=30)
    url = postgres.url().replace("postgres@", f"nobody:{SECRET}@")
    assert "refuses the user or the password" in await refused(url, patience=30)


@pytest.mark.parametrize("option", ["sslmode=perhaps", "colour=blue"])
async def test_an_option_that_the_driver_does_not_know_is_refused(postgres: Postgres, option: str) -> None:
    text = await refused(f"{postgres.url()}&{option}", patience=30)
    assert "look at the options of the URL" in text
    assert option.partition("=")[0] in text


async def test_sslmode_is_handed_to_the_driver(postgres: Postgres) -> None:
    async with open_store(f"{postgres.url()}&sslmode=prefer") as store:
        assert await store.deduplication.claim("sslmode", "t", 1) is None


async def test_a_database_that_is_read_only_is_refused(postgres: Postgres) -> None:
    await execute(postgres.url(), "CREATE DATABASE standby")
    await execute(postgres.url(), "ALTER DATABASE standby SET default_transaction_read_only = on")
    assert "is read-only: let this process write it" in await refused(postgres.url("standby"), patience=30)


async def test_tables_that_the_user_may_not_make_are_refused(postgres: Postgres) -> None:
    await execute(postgres.url(), "CREATE DATABASE guarded", "CREATE ROLE guest LOGIN")
    url = postgres.url("guarded").replace("postgres@", "guest@")
    assert "grant the rights" in await refused(url, patience=30)


async def test_the_old_name_of_the_scheme_is_taken(postgres: Postgres) -> None:
    async with open_store(postgres.url().replace("postgresql:", "postgres:")) as store:
        assert await store.deduplication.claim("old name", "t", 1) is None
