"""A shop with sagas is killed at random moments, with SIGKILL, and comes back: nothing is left half done."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.lives import KILLS
from tests.support.programs import ROOT
from tests.support.saga_crash import ORDERS, STEPS, breaks_down, fails, sticks


@pytest.mark.timeout(60 + 3 * KILLS)
async def test_every_saga_is_completed_or_compensated_and_each_effect_happened_once(url: str, tmp_path: Path) -> None:
    """K-D8.5. Killed at any moment, it goes on from the journal."""
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
    rounds = printed.decode().splitlines()
    assert rounds
    for number, line in enumerate(rounds, 1):
        check(line.split(), tmp_path / str(number))


def check(statuses: list[str], folder: Path) -> None:
    assert len(statuses) == ORDERS
    for order, status in enumerate(statuses):
        where = f"round {folder.name}, order {order}"
        assert (folder / f"{order}.acknowledged").exists(), where
        effects: dict[str, float] = {}
        for file in folder.glob(f"{order}.*.*"):
            name = file.name.split(".")[1]
            assert name not in effects, f"{where}: one key for each step, whatever happens"
            effects[name] = float(file.read_text().split()[0])
        failed = fails(order)
        if breaks_down(order) and status != "completed":
            failed = "ship"
        done = STEPS if failed is None else STEPS[: STEPS.index(failed)]
        back = done[done.index("pay") + 1 :] if sticks(order) else done
        assert status == ("completed" if failed is None else "stuck" if sticks(order) else "compensated"), where
        assert (folder / f"{order}.letter").exists() == sticks(order), where
        undone = {f"{name}:undo" for name in back} if failed else set()
        if breaks_down(order) and failed and failed in effects:
            done, undone = STEPS, undone | {"ship:undo"}  # it happened, and nobody had heard of it
        # A step in doubt may be compensated although it never happened, and then by nothing but its own key.
        assert {*done} | undone <= {*effects} <= {*done} | undone | {f"{failed}:undo"}, where
        order_of_undo = sorted((at, name) for name, at in effects.items() if name.endswith(":undo"))
        found = [name.removesuffix(":undo") for _, name in order_of_undo]
        assert found == sorted(found, key=STEPS.index, reverse=True), where
