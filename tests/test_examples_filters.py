"""The example of filters says which events passed, why one did not, and what is wrong with an expression."""

from __future__ import annotations

from tests.support.programs import run

PRINTED = """\
orders, but no tests: new order, small order, cancelled
shops or warehouses: new order, small order, cancelled, stock
everything: new order, small order, test order, cancelled, stock

type LIKE '%.created' AND priority = 'high'
  new order, test order

EXISTS total AND total > 100 AND source <> '/test'
  new order

source LIKE '/shop/%' AND UPPER(CITY(source)) IN ('BERLIN', 'ROME')
  new order, cancelled

total * 2 < 10
  small order
  cancelled: False, missingAttribute: the event has no total (position 0)

expected a value, found '=' at position 49 (equality is written with one =)
  type = 'com.example.order.created' AND priority == 'high'
                                                   ^
"""


async def test_filters_shows_what_passed() -> None:
    code, printed = await run("examples/filters.py")
    assert printed == PRINTED
    assert code == 0
