"""The examples of stages say what became of each event: a tour of all stages, and a service for webhooks."""

from __future__ import annotations

import ast
import re
import time
from typing import Any

from tests.support.programs import ROOT, run

TOUR = """\
1. An order, and the same once more: it is handled once
     saved together: A1
     parcel service took A1
  -> ack
  -> ack

2. A rule refuses, another one sends dear orders to the courier; if that fails, they go on
  -> nack 422: nothing is free
     saved together: A3
     courier took A3
  -> ack
     saved together: A4
     parcel service took A4
  -> ack

3. The third attempt succeeds
     saved together: A5
     parcel service refused A5
     parcel service refused A5
     parcel service took A5
  -> ack

4. Those of one customer stay in order, and share no batch; another customer's is not held up
     saved together: B1, C1
     parcel service took B1
     parcel service took C1
     saved together: B2
     parcel service took B2
  -> ack
  -> ack
  -> ack

5. Three attempts are out of time: the circuit opens, and the order is kept
     saved together: A6
     parcel service is asleep (A6)
     parcel service is asleep (A6)
     parcel service is asleep (A6)
     kept order A6: exhausted after 3 attempts, retry > circuit_breaker > timeout
  -> ack

6. The next one is let through when the circuit may be tried again
     saved together: A7
     parcel service took A7
  -> ack

7. Too many at once: ten pass, in batches of five, two at work at a time
     saved together: D0, D1, D2, D3, D4
     saved together: D5, D6, D7, D8, D9
PARCELS
     at most 2 at once
  -> 10 acknowledged, the others [429, 429]

What the stages counted:
  deduplicate      {'duplicate': 1, 'handed_over': 1}
  on_error         {'propagated': 3, 'handed_over': 1}
  rate_limit       {'refused': 2}
  rule_filter      {'refused': 1, 'routed': 2}
  order            {}
  save             {'batches': 10, 'events': 19}
  queue            {}
  by hint          {'unknown': 17}
  retry            {COUNTS}
  circuit_breaker  {COUNTS}
  timeout          {'timed_out': 3}
"""


async def test_the_tour_of_stages_shows_each_of_them_and_ends_by_itself() -> None:
    began = time.monotonic()
    code, printed = await run("examples/stages.py")
    assert time.monotonic() - began < 10  # two seconds, on a machine that has nothing else to do
    parcels = re.findall(r"parcel service took (D\d)", printed)
    assert sorted(parcels) == [f"D{number}" for number in range(10)]  # in whatever order
    assert re.search(r"circuit_breaker  {'opened': 1,.* 'closed': 1}", printed)
    shown = re.sub(r"(     parcel service took D\d\n)+", "PARCELS\n", printed)
    # How often the open circuit refused, and was asked again, is up to the clock.
    assert re.sub(r"(retry|circuit_breaker)( +){.*}", r"\1\2{COUNTS}", shown) == TOUR
    assert code == 0


async def test_event_processing_tells_what_became_of_each_webhook_and_what_was_counted() -> None:
    code, printed = await run("examples/event_processing.py")
    told = re.findall(r"^  (com\.github\.[a-z_.]+) +(\w+) ?(\d*)$", printed, re.MULTILINE)
    payloads = [*(ROOT / "examples" / "github_webhooks").glob("*.json")]
    *first, again, broken = told
    assert len(first) == len(payloads) > 10
    assert {(outcome, status) for _, outcome, status in first} == {("Ack", "204")}
    assert again == first[0]  # the duplicate
    assert broken[1:] == ("Nack", "422")

    counted = shown(printed, "What was counted:")
    outcomes = shown(printed, "/metrics/processor ->")
    assert outcomes == {"acked": len(first) - 1, "dropped": 1, "duplicate": 1, "nacked": 1}  # a robot, and the last two
    assert counted["searchable"] == outcomes["acked"] == counted["checkout"] + counted["finance"]
    assert (counted["audited"], counted["finance"]) == (1, 1)
    assert counted["pushes"] == sum(kind == "com.github.push" for kind, _, _ in first) - 1
    activity = shown(printed, "/processor/aggregation?aggregator=activity&key=acme/shop ->")
    assert activity == {"events": counted["checkout"], "people": 3}

    kinds = re.findall(r"^\d+\. (\w+)", printed, re.MULTILINE)
    chain = ["validate", "deduplicate", "enrich", "rule_filter", "aggregate", "route", "fan_out", "handler"]
    assert kinds == chain
    assert code == 0


def shown(printed: str, label: str) -> Any:
    """Return the dict that is printed behind ``label``."""
    (line,) = [line for line in printed.splitlines() if line.startswith(label)]
    return ast.literal_eval(line.removeprefix(label).strip())
