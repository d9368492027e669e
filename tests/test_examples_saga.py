"""The example of a saga completes one order, and takes back what it did for another."""

from __future__ import annotations

from tests.support.programs import run

PRINTED = """\
An order to Berlin:
  shop: reserves lamp
  bank: charge 12.5
  shipper: shipped, to Berlin
  ack: completed, taken back: nothing
One to Atlantis:
  shop: reserves lamp
  bank: charge 12.5
  shipper: failed, to Atlantis
  bank: refund 12.5
  shop: releases lamp
  nack: compensated, taken back: pay, reserve
Again:
  nack: compensated, taken back: pay, reserve
Without a saga:
  order 4: com.example.order.created of /customer
  order 4: com.example.stock.reserved of /stock
  order 4: com.example.payment.failed of /bank
  order 4: com.example.stock.released of /stock
  the customer gets nothing: order 4
"""


async def test_the_saga_completes_one_order_takes_the_other_back_and_does_nothing_twice() -> None:
    code, printed = await run("examples/saga.py")
    told = ("saga order: ship failed for good", "Executing ")  # the log, and a debugger that finds a loop slow
    lines = [line for line in printed.splitlines(keepends=True) if not line.startswith(told)]
    assert "".join(lines) == PRINTED
    assert code == 0
