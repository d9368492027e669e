"""Processes that open one new database at the same moment: ``python -m tests.support.openers URL``.

They are forks of this one, which has loaded everything: what is tested is the database, not the time of imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from cloudevents_kit.stores import open_store
from tests.support.lives import begin, end

PROCESSES = 8


def main(url: str) -> None:
    """Print how each process ended, and then how many of them got the one claim."""
    gate, closed = os.pipe()

    async def claim(tell: Callable[[], None]) -> None:
        os.close(closed)
        os.read(gate, 1)  # until nobody has the other end any more
        async with open_store(url, patience=30) as store:
            if await store.deduplication.claim("k", str(os.getpid()), 60) is None:
                tell()

    processes = [begin(claim) for _ in range(PROCESSES)]
    os.close(closed)
    claims = [os.read(reading, 1) for _, reading in processes]
    print(*(end(*process) for process in processes), claims.count(b"!"))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(sys.argv[1])
