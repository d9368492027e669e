"""The example of a durable fan-out shows that nobody waits for one who is down, and that he misses nothing."""

from __future__ import annotations

from tests.support.programs import run

PRINTED = """\
The shop stores orders and events, and stops:
  order 1 created: stored for search
  order 1 paid: stored for search, warehouse
  order 2 created: stored for search
  order 2 paid: stored for search, warehouse
Another process sends what is stored, to each on its own:
  search: order 1 created, order 1 paid
  search: order 2 created, order 2 paid
  the warehouse is behind by 2
The warehouse is back, and catches up:
  shipped: order 1, order 2
A subscriber that goes for good:
  ack, stored for each; deleted: 1
"""


async def test_the_durable_fan_out_loses_nothing() -> None:
    code, printed = await run("examples/durable_fan_out.py")
    assert printed == PRINTED
    assert code == 0
