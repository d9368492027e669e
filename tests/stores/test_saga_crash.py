"""A shop with sagas is killed at random moments, with SIGKILL, and comes back: nothing is left half done."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.programs import ROOT
from tests.support.saga_crash import ORDERS, STEPS, fails

#: How often it is killed; the environment may ask for more.
KILLS = int(os.environ.get("SAGA_KILLS", "20"))


@pytest.mark.timeout(60 + 3 * KILLS)
async def test_every_saga_is_completed_or_compensated_and_each_effect_happened_once(url: str, tmp_path: Path) -> None:
    """K-D8: killed at any moment, it goes on from the journal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.support.saga_crash", url, str(tmp_path), str(KILLS)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        printed, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, errors.decode()
    for number, line in enumerate(printed.decode().splitlines(), 1):
        check(line.split(), tmp_path / str(number))


def check(statuses: list[str], folder: Path) -> None:
    assert len(statuses) == ORDERS
    for order, status in enumerate(statuses):
        assert (folder / f"{order}.acknowledged").exists()
        effects: dict[str, list[float]] = {}
        for file in folder.glob(f"{order}.*.*"):
            name = file.name.split(".")[1]
            assert name not in effects, "one key for each step, whatever happens"
            effects[name] = [float(line.split()[1]) for line in file.read_text().splitlines()]
        failed = fails(order)
        done = STEPS if failed is None else STEPS[: STEPS.index(failed)]
        assert status == ("completed" if failed is None else "compensated")
        undone = {f"{name}:undo" for name in done} if failed else set()
        # A step in doubt may be compensated although it never happened, and then by nothing but its own key.
        assert {*done} | undone <= {*effects} <= {*done} | undone | {f"{failed}:undo"}
        order_of_undo = sorted((times[0], name) for name, times in effects.items() if name.endswith(":undo"))
        found = [name.removesuffix(":undo") for _, name in order_of_undo]
        assert found == sorted(found, key=STEPS.index, reverse=True)
