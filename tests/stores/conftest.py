"""A real PostgreSQL and a real Valkey for the session, and a store on each kind of database for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.redis import RedisStore
from cloudevents_kit.stores.sql import SqlStore
from tests.support.databases import MadeDatabase
from tests.support.real_servers import Postgres, Valkey
from tests.support.redis import run
from tests.support.sql import execute, made


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests of the session; a test that kills it starts it again."""
    server = Postgres("fsync=off").start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def made_database(postgres: Postgres) -> MadeDatabase:
    """A database for those tests that want a store and no more."""
    return MadeDatabase(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database, which is empty; or has empty tables, if the test has it opened."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'events.db'}"
        return
    if "opened" in request.fixturenames:
        database: MadeDatabase = request.getfixturevalue("made_database")
        yield await database.take()
        await database.give_back()
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex}"
    await execute(server.url(), f'CREATE DATABASE "{name}"')
    try:
        yield server.url(name)
    finally:
        await execute(server.url(), f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def opened(url: str) -> AsyncIterator[SqlStore]:
    """A store, opened."""
    async with made(open_store(url)) as store:
        yield store


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A server for all tests of the session; a test that kills it, or changes how it is set, has one of its own."""
    server = Valkey("--appendfsync", "no").start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
async def redis_url(valkey: Valkey) -> str:
    """The URL of an empty Valkey."""
    await run(valkey.url(), "FLUSHALL")
    return valkey.url()


@pytest.fixture
async def redis_store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store in Valkey, opened."""
    async with open_store(redis_url) as store:
        assert isinstance(store, RedisStore)
        yield store
