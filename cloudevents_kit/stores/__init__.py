"""Stores, by where they keep things: `open_store` opens one by its URL.

What a store must do is a Protocol beside its one user (`stages.DedupeStore` beside `stages.deduplicate`). Modules
without an underscore know no user, and so may be the default of one; the others know those they serve.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cloudevents_kit._arguments import check_kind, check_positive
from cloudevents_kit._errors import StoreError
from cloudevents_kit._extra import load
from cloudevents_kit.stores._store import Store

__all__ = ["Store", "StoreError", "open_store"]

#: By scheme: the module of the store, and the packages it needs, each with its extra.
_SCHEMES = {
    "memory": ("_in_memory", ()),
    "sqlite": ("sql", (("sqlalchemy", "sql"), ("greenlet", "sql"), ("aiosqlite", "sql"))),
    "postgresql": ("sql", (("sqlalchemy", "sql"), ("greenlet", "sql"), ("asyncpg", "postgres"))),
    "redis": ("redis", (("redis", "redis"),)),
    "rediss": ("redis", (("redis", "redis"),)),
    "unix": ("redis", (("redis", "redis"),)),
}


def open_store(url: str, *, patience: float = 10.0) -> Store:
    """Return the store at ``url``; it is opened by ``async with``, and can be handed to stages before.

    Opening makes the tables that are missing, and proves that they can be written. Raises StoreError, here or there,
    which says what to do: for an unknown scheme, a missing package, a database that is newer than this release,
    damaged, read-only, locked or out of reach, or a Redis server that forgets things when it is full.

    Args:
        url: ``sqlite:///events.db`` (four slashes for an absolute path), ``postgresql://user:password@host/database``,
            ``redis://user:password@host:6379/0`` (``rediss:`` by TLS, ``unix:///run/valkey.sock?db=0`` for a socket;
            not all kinds of store) or ``memory:``, which forgets everything when the process ends.
        patience: seconds to wait for a database that is locked or out of reach, in every call, before it fails.
    """
    check_kind("url", url, str, "a str such as sqlite:///events.db")
    check_positive("patience", patience)
    scheme = url.partition(":")[0].partition("+")[0].lower()
    scheme = "postgresql" if scheme == "postgres" else scheme
    if scheme not in _SCHEMES:
        raise StoreError(f"url: must begin with {', '.join(f'{known}:' for known in _SCHEMES)}, not {_told(scheme)}")
    module, packages = _SCHEMES[scheme]
    for package, extra in packages:
        try:
            load(package, extra)
        except ImportError as error:
            raise StoreError(str(error)) from error
    found: Any = import_module(f"{__name__}.{module}")
    made: Store = found.make(url, patience=patience)
    return made


def _told(scheme: str) -> str:
    """Return ``scheme`` as it may be shown: what is none may be a secret."""
    return f"{scheme}:" if scheme.isalnum() and len(scheme) <= 16 else "what it begins with"
