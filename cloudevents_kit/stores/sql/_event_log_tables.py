"""The tables of the event log, and what its parts share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from cloudevents_kit.stores.sql._engine import Database
from cloudevents_kit.stores.sql._schema import MICROS, creation, table

LOG = table(
    "cek_log",
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("at", MICROS, nullable=False),  # never less than that of an earlier position
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.Index("cek_log_stream", "scope", "stream", "version", unique=True),
    sa.Index("cek_log_identity", "scope", "identity", "stream", unique=True),
)
CHECKPOINTS = table(
    "cek_log_checkpoints",
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("token", sa.Text, nullable=False),  # of its lease
    sa.Column("until", MICROS, nullable=False),  # when the lease ends
)
SNAPSHOTS = table(
    "cek_log_snapshots",
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("schema", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
STEP = creation(LOG, CHECKPOINTS, SNAPSHOTS)


def limited(name: str, seconds: float) -> sa.ColumnElement[str]:
    """Return what sets a time limit of PostgreSQL for the rest of the transaction.

    Nobody else ends the transaction, and its locks, of a client whose machine has lost its power
    (idle_in_transaction_session_timeout), or that has gone while a statement was executed (statement_timeout).
    """
    return sa.func.set_config(name, f"{round(seconds * 1000)}", sa.true())


class Shielded(Exception):
    """Carries what the code of others raised within a transaction, so that it does not count as the database's."""

    def __init__(self, error: Exception) -> None:
        """Carry ``error``."""
        super().__init__()
        self.error = error


@asynccontextmanager
async def shielded(database: Database) -> AsyncIterator[None]:
    """Shield what is raised here, but for what says that the database itself is in trouble."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DBAPIError) and database.trouble(error) is not None:
            raise
        raise Shielded(error) from error
