"""A receiver: notes orders, answers questions about prices, refuses everything else.

    uv run python examples/receive.py [port]

Stop it with Ctrl-C or SIGTERM: what is in flight is handled first.
"""

import logging
import sys
from dataclasses import dataclass

from cloudevents_kit import Event, Receiver, Reject, Router

PRICES = {"lamp": 12.5, "chair": 48.0}
router = Router()


@dataclass(frozen=True)
class Order:
    """What the data of an order must look like."""

    number: int
    items: list[str]


@dataclass(frozen=True)
class Question:
    """What the data of a question about a price must look like."""

    item: str


@router.on("com.example.order.created")
def created(event: Event, order: Order) -> None:  # a plain function: it runs in a thread and may block
    if not order.items:
        raise Reject("an order has at least one item")
    print(f"order {order.number} from {event.source}: {', '.join(order.items)}", flush=True)


@router.on("com.example.price.asked")
async def asked(event: Event, question: Question) -> Event:
    if question.item not in PRICES:
        raise Reject("no such item")
    print(f"{event.source} asks for the price of a {question.item}", flush=True)
    return event.reply(type="com.example.price.told", source="/shop", data={"price": PRICES[question.item]})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    Receiver(router, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080).run()
