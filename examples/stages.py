"""A tour of the processing stages: one chain in front of a parcel service that has bad days, and no HTTP.

    uv run python examples/stages.py

What an event meets, from the outside in, is the list CHAIN; `main` hands it orders and tells what becomes of them.
"""

import asyncio
import logging
from collections.abc import Sequence

from cloudevents_kit import Event, HandlerSink, Nack, Result, RetryPolicy, stages

# ------------------------------------------------------------------------------- what the stages call, and the handler


async def keep(event: Event, error: Exception) -> None:
    if isinstance(error, stages.StageError):  # which is all that CHAIN hands over
        where = " > ".join(error.path[-3:])
        print(f"     kept order {event.id}: {error.kind} after {error.attempts} attempts, {where}")


async def save(events: Sequence[Event]) -> None:
    print(f"     saved together: {', '.join(event.id for event in events)}")


async def courier(event: Event) -> None:
    if event.data["total"] > 500:
        raise ConnectionError("the courier does not answer")
    print(f"     courier took {event.id}")


class ParcelService:
    """Takes parcels; `moods` says how the next attempts go."""

    is_async_handler = True

    def __init__(self) -> None:
        """Be in a good mood."""
        self.moods: list[str] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, event: Event) -> None:
        """Take a parcel."""
        mood = self.moods.pop(0) if self.moods else "good"
        if mood == "bad":
            print(f"     parcel service refused {event.id}")
            raise ConnectionError("come back later")
        if mood == "asleep":
            print(f"     parcel service is asleep ({event.id})")
            await asyncio.sleep(3600)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        print(f"     parcel service took {event.id}")


# ----------------------------------------------------------------------------------------------------------- the chain

RULES = [
    stages.Rule(name="free", action="nack", reason="nothing is free", when=[stages.Condition("data.total", "lte", 0)]),
    stages.Rule(name="dear", action="route", to="express", when=[stages.Condition("data.total", "gt", 100)]),
]
EXPRESS = {"express": stages.first_of(courier, stages.PASS)}  # PASS: what follows, that is the parcel service
CHAIN = [
    stages.deduplicate(),  # a copy gets the answer of the original
    stages.on_error(keep, only=stages.StageError),  # what a stage gave up is kept, and acknowledged
    stages.rate_limit(20, burst=10, mode="refuse", key=lambda event: event.source),
    stages.rule_filter(RULES),
    stages.order(),  # one after the other for each customer, who is the subject
    stages.batch(save, max_events=5, max_delay=0.03),
    stages.queue(workers=2),
    stages.route(stages.hinted("express"), EXPRESS, default=stages.PASS, name="by hint"),
    stages.retry(RetryPolicy(attempts=3, initial=0.02)),
    stages.circuit_breaker(failures=3, reset=0.3),
    stages.timeout(0.2),  # inside retry: for each attempt
]


def order(number: str, customer: str = "anna", *, total: float = 20, source: str = "/shop") -> Event:
    return Event(type="com.example.order.created", source=source, id=number, subject=customer, data={"total": total})


def tell(result: Result) -> None:
    if isinstance(result, Nack):
        after = f", again in {result.retry_after:.2f} s" if result.retry_after is not None else ""
        print(f"  -> nack {result.status}: {result.reason}{after}")
    else:
        print(f"  -> {result.outcome}")


async def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # the stages would warn of what is shown here
    service = ParcelService()
    shop = HandlerSink(service, *CHAIN)

    async with stages.running(shop):  # a receiver opens and closes its stages by itself
        print("1. An order, and the same once more: it is handled once")
        tell(await shop.send(order("A1")))
        tell(await shop.send(order("A1")))

        print("\n2. A rule refuses, another one sends dear orders to the courier; if that fails, they go on")
        tell(await shop.send(order("A2", total=0)))
        tell(await shop.send(order("A3", total=200)))
        tell(await shop.send(order("A4", total=900)))

        print("\n3. The third attempt succeeds")
        service.moods = ["bad", "bad"]
        tell(await shop.send(order("A5")))

        print("\n4. Those of one customer stay in order, and share no batch; another customer's is not held up")
        several = [order("B1", "ben"), order("B2", "ben"), order("C1", "carla")]
        for result in await asyncio.gather(*map(shop.send, several)):
            tell(result)

        print("\n5. Three attempts are out of time: the circuit opens, and the order is kept")
        service.moods = ["asleep", "asleep", "asleep"]
        tell(await shop.send(order("A6")))

        print("\n6. The next one is let through when the circuit may be tried again")
        tell(await shop.send(order("A7")))

        print("\n7. Too many at once: ten pass, in batches of five, two at work at a time")
        service.most_at_once = 0
        many = [order(f"D{number}", f"customer {number}", source="/import") for number in range(12)]
        results = await asyncio.gather(*map(shop.send, many))
        print(f"     at most {service.most_at_once} at once")
        refused = [result.status for result in results if isinstance(result, Nack)]
        print(f"  -> {sum(map(bool, results))} acknowledged, the others {refused}")

    print("\nWhat the stages counted:")
    for stage in CHAIN:
        print(f"  {stage.name:16} {dict(stage.counts)}")


if __name__ == "__main__":
    asyncio.run(main())
