"""A durable fan-out in processes that are killed at random moments: no subscriber misses what was acknowledged."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cloudevents_kit.stores import open_store
from tests.support.fan_out_crash import KEYS
from tests.support.lives import KILLS
from tests.support.programs import ROOT
from tests.support.sql import execute

#: What the moments begin with.
SEED = int(os.environ.get("SEED", "7"))


async def run(*arguments: object) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "tests.support.fan_out_crash", *map(str, arguments),
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )  # fmt: skip
    try:
        said, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (said, process.returncode) == (b"done\n", 0), errors.decode()


@pytest.mark.timeout(120 + 3 * KILLS)
async def test_every_subscriber_has_every_acknowledged_event_that_it_wants(url: str, tmp_path: Path) -> None:
    """K-D10.1. SIGKILL at random moments while events are stored and sent."""
    file = tmp_path / "lines"
    async with open_store(url):
        await execute(url, "CREATE TABLE orders (id BIGINT PRIMARY KEY)")
    await run(url, file, KILLS, SEED)

    ids: dict[str, list[int]] = defaultdict(list)
    for line in file.read_text().splitlines():
        *what, number = line.split()
        ids[" ".join(what)].append(int(number))
    acked = {*ids["acked"]}
    logging.getLogger(__name__).info("%s", {what: len(found) for what, found in ids.items()})
    assert len(acked) > KILLS
    got = {name: Counter(ids[f"got {name}"]) for name in ("plain", "keyed", "flaky")}
    for name, wanted in (("plain", acked), ("keyed", acked), ("flaky", {n for n in acked if n % 2})):
        assert not wanted - got[name].keys(), f"{name} misses some (seed {SEED})"
        assert not got[name].keys() & {*ids["rolled"]}, f"{name} has what never happened (seed {SEED})"
        assert got[name].keys() <= {*ids["sent"]}
        assert sum(got[name].values()) - len(got[name]) <= 100 * KILLS, f"{name} has too much twice (seed {SEED})"
    assert all(number % 2 for number in got["flaky"])
    assert len(got["flaky"]) < len(got["plain"])
    for key in range(KEYS):
        order = [number for number in dict.fromkeys(ids["got keyed"]) if number % KEYS == key]
        assert order == sorted(order), f"out of order: key {key} (seed {SEED})"
