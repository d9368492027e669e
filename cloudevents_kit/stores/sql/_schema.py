"""What all tables are made of, and how they come into being: by steps that are taken once each, and never back.

The tables begin with ``cek_``, so that they can stand beside those of a program. Times are microseconds since 1970 as
the database has them, so that processes on several machines agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

from cloudevents_kit._errors import StoreError
from cloudevents_kit.stores.sql._engine import Database

METADATA = sa.MetaData()
#: For columns of times, and of numbers that SQLite makes up itself.
MICROS = sa.BigInteger()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_VERSIONS = sa.Table("cek_versions", METADATA, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
_LOCK = 0x63656B  # any number, as long as all releases have the same

#: One of SQLAlchemy's, which 2.0 and 2.1 type differently.
Row = Any
Step = Callable[[sa.Connection], None]


class now(sa.sql.functions.FunctionElement[int]):  # noqa: N801 - in the place of a function
    """The time of the database when the statement began."""

    type = MICROS
    inherit_cache = True


@compiles(now, "sqlite")
def _now_in_sqlite(*_: object, **__: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(now, "postgresql")
def _now_in_postgres(*_: object, **__: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)"


def micros(seconds: float) -> int:
    """Return ``seconds`` as tables have them; those of ages are a century."""
    return int(min(seconds, 3.2e9) * 1e6)


def table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """Return a table of the kit whose rows belong to a scope."""
    return sa.Table(name, METADATA, sa.Column("scope", sa.Text, primary_key=True), *columns)


def insert(into: sa.Table, database: Database) -> postgresql.Insert:
    """Return an insert that knows what to do about conflicts; SQLite has learned that from PostgreSQL."""
    made: Any = sqlite.insert(into) if database.is_sqlite else postgresql.insert(into)
    return made  # type: ignore[no-any-return]


def creation(*tables: sa.Table) -> Step:
    """Return the step that makes ``tables``."""
    return lambda connection: METADATA.create_all(connection, tables)


def migrate(connection: sa.Connection, steps: Sequence[Step], name: str) -> None:
    """Take those of ``steps`` that the database has not seen; of several processes at once, one does.

    Raises StoreError if it has seen more. Writes in any case, so that what cannot be written is found out now.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    _VERSIONS.create(connection, checkfirst=True)
    known = len(steps)
    found = connection.scalar(sa.select(sa.func.max(_VERSIONS.c.version))) or 0
    if found > known:
        raise StoreError(
            f"{name} is of a newer release: its tables have version {found}, this one knows {known} "
            "(install a newer cloudevents-kit)"
        )
    for number in range(found, known):
        steps[number](connection)
        connection.execute(sa.insert(_VERSIONS).values(version=number + 1))
    connection.execute(sa.update(_VERSIONS).values(version=_VERSIONS.c.version))


def to_text(text: str) -> str:
    """Return ``text`` as every database can keep it: what is not printable as JSON, which `from_text` reads."""
    return text if text.isprintable() and not text.startswith('"') else json.dumps(text)


def from_text(text: str) -> str:
    """Return what was given to `to_text`."""
    found: Any = json.loads(text) if text.startswith('"') else text
    return str(found)
