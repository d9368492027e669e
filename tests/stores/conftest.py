"""A real PostgreSQL for the session, and a store on each kind of database for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore
from tests.support.real_servers import Postgres
from tests.support.sql import execute, made


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests of the session; a test that kills it starts it again."""
    server = Postgres("fsync=off").start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'events.db'}"
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
