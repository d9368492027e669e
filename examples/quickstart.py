"""The main job in one run: a receiver, events sent to it, and the truth about each.

    uv run python examples/quickstart.py

It takes a free port, needs nothing else, and ends by itself.
"""

import asyncio
import logging
from dataclasses import dataclass

from cloudevents_kit import Ack, Event, Nack, Receiver, Reject, Result, Retry, RetryPolicy, Router, Sender, Undelivered

# ------------------------------------------------------------------------------------------------- the receiving side

router = Router()
bad_days = [Retry(reason="the printer is warming up"), Retry(after=1, reason="the printer is out of paper")]


@dataclass(frozen=True)
class Order:
    """What the data of an order must look like."""

    number: int
    total: float


@router.on("com.example.order.created")
async def created(event: Event, order: Order) -> None:
    print(f"     receiver: noted order {order.number}, total {order.total:.2f}")


@router.on("com.example.price.asked")
async def price(event: Event) -> Event:
    return event.reply(type="com.example.price.told", source="/shop", data={"price": 12.5})


@router.on("com.example.order.cancelled")
async def cancelled(event: Event, order: Order) -> None:
    raise Reject(f"order {order.number} has left the house already")


@router.on("com.example.invoice.requested")
async def invoice(event: Event) -> None:
    if bad_days:
        bad_day = bad_days.pop(0)
        print(f"     receiver: {bad_day.reason}")
        raise bad_day
    print("     receiver: printed the invoice")


@router.on("com.example.stock.counted")
async def count(event: Event) -> None:
    await asyncio.sleep(0.6)
    print("     receiver: counted the stock, too late for the sender")


# --------------------------------------------------------------------------------------------------- the sending side


def order(event_type: str, **data: object) -> Event:
    return Event(type=f"com.example.{event_type}", source="/orders", data=data)


def tell(result: Result) -> None:
    for attempt in result.attempts if len(result.attempts) > 1 else ():
        answer = attempt.status or attempt.error
        print(f"     sender: attempt {attempt.number} after a wait of {attempt.wait:.1f} s: {answer}")
    match result:
        case Ack(status=status, reply=Event(type=kind, data=data)):
            print(f"  -> ack {status}, and the reply is {kind} {data}")
        case Ack(status=status):
            print(f"  -> ack {status}: it was handled")
        case Nack(status=status, reason=reason, retryable=again):
            print(f"  -> nack {status}: {reason} ({'try again later' if again else 'final, not sent again'})")
        case Undelivered(reason=reason, error=error, possibly_delivered=maybe):
            print(f"  -> undelivered, {reason}: {error} ({'it may have arrived' if maybe else 'it did not arrive'})")


async def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # the receiver would warn of section 4, as its result does
    steady = RetryPolicy(attempts=4, initial=0.2, factor=2, jitter=False)  # without jitter the waits are easy to read

    async with Receiver(router, port=0) as receiver, Sender(receiver.url, retry=steady) as sender:
        url = receiver.url
        print(f"The receiver listens at {url}")

        print("\n1. An event is handled")
        tell(await sender.send(order("order.created", number=7, total=19.5)))

        print("\n2. A question is answered with an event")
        tell(await sender.request(order("price.asked", item="lamp")))

        print("\n3. The handler refuses")
        tell(await sender.send(order("order.cancelled", number=7, total=19.5)))

        print("\n4. The data does not fit the handler's type")
        tell(await sender.send(order("order.created", number="seven", total=19.5)))

        print("\n5. The receiver fails at first: backoff, then its own Retry-After")
        tell(await sender.send(order("invoice.requested", number=7)))

        print("\n6. No answer in time")
        async with Sender(url, timeout=0.3, retry=RetryPolicy.none()) as impatient:
            tell(await impatient.send(order("stock.counted")))

    # Leaving the block stopped the receiver, but not before it had handled what was in flight.
    print("\n7. Nobody listens any more")
    async with Sender(url, retry=steady) as sender:
        tell(await sender.send(order("order.created", number=8, total=4.0)))


if __name__ == "__main__":
    asyncio.run(main())
