"""A service that takes the webhooks of GitHub as CloudEvents and processes them in stages.

    validate -> deduplicate -> enrich (team, role) -> rules -> aggregate -> route by type -> fan out

It serves, sends itself the payloads of `github_webhooks` in batches, with a duplicate and a broken one among them, and
prints what became of each, what the service counted, and what the chain is made of.

    uv run python examples/event_processing.py
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cloudevents_kit import Event, Handler, Receiver, Result, Sender, wrap
from cloudevents_kit import stages as s

PAYLOADS = Path(__file__).parent / "github_webhooks"

# What the service knows; a real one would ask a database, which is why the lookups are cached.
TEAMS = {"acme/shop": "checkout", "acme/payments": "finance"}
ROLES = {"anna": "maintainer", "ben": "maintainer"}

RULES = """
[[rules]]
name = "robots"
action = "block"
priority = 10
when = [{ field = "data.sender.type", op = "eq", value = "Bot" }]

[[rules]]
name = "private"
action = "transform"
set = { audit = true }
continue = true
when = [{ field = "data.repository.private", op = "eq", value = true }]

[[rules]]
name = "outsiders"
action = "transform"
set = { priority = "low" }
when = [{ field = "role", op = "eq", value = "guest" }]
"""


@dataclass
class Repository:
    """The part of GitHub's repository that this service needs."""

    full_name: str
    private: bool


@dataclass
class Account:
    """The part of GitHub's user that this service needs."""

    login: str
    type: str


@dataclass
class Webhook:
    """What every payload must have."""

    repository: Repository
    sender: Account


class Service:
    """The chain and what it works on: in memory, so that the example needs nothing else."""

    def __init__(self) -> None:
        """Compose the chain."""
        self.teams = s.Cached(self.load_team, ttl=300, name="teams")
        self.roles = s.Cached(self.load_role, ttl=300, name="roles")
        self.activity = s.aggregate(
            {"events": s.count(), "people": s.distinct("data.sender.login")},
            by="data.repository.full_name",
            size=86400,
            name="activity",
        )
        self.metrics = s.Metrics()
        self.feed: Counter[str] = Counter()
        chain = (
            s.validate(Webhook),
            s.deduplicate(),
            s.enrich(self.add_team_and_role),
            s.rule_filter(s.load_rules(RULES, format="toml")),
            self.activity,
            s.route(family, {"push": s.tap(self.note_push), "ping": s.PASS}, default=s.PASS, name="by type"),
            # In memory both are done at once; sinks that wait would run side by side, without limit=1.
            s.fan_out({"feed": self.to_feed, "search": self.to_search}, limit=1),
        )
        self.handler: Handler = s.observe(wrap(done, *chain), self.metrics)

    def receiver(self, port: int = 0) -> Receiver:
        """Return the HTTP side: events at /, what the chain does at /processor/... and /metrics/processor."""
        pages = s.endpoints(self.handler, metrics=self.metrics, lookups={"teams": self.teams, "roles": self.roles})
        return Receiver(self.handler, port=port, endpoints=pages)

    async def load_team(self, repository: str) -> str | None:
        """Ask who owns a repository."""
        return TEAMS.get(repository)

    async def load_role(self, login: str) -> str:
        """Ask what somebody is here."""
        return ROLES.get(login, "guest")

    async def add_team_and_role(self, event: Event) -> Event:
        """Mark the event with the team that owns the repository, and with what its sender is here."""
        return event.evolve(team=await self.teams(repository(event)), role=await self.roles(login(event)))

    def note_push(self, _: Event) -> None:
        """Do what only pushes need."""
        self.feed["pushes"] += 1

    async def to_feed(self, event: Event) -> None:
        """One of the places that want every event."""
        self.feed[event.get("team", "nobody")] += 1
        self.feed["audited"] += "audit" in event

    async def to_search(self, _: Event) -> None:
        """Another one."""
        self.feed["searchable"] += 1


repository = s.field("data.repository.full_name")
login = s.field("data.sender.login")


def family(event: Event) -> str:
    """Return the kind of webhook: ``push`` for com.github.push."""
    return event.type.split(".", 3)[2]


async def done(event: Event) -> None:
    """End the chain: its stages have done all there is to do."""


def webhook(name: str, number: int) -> Event:
    """Return a payload as GitHub's delivery of it, as a CloudEvent."""
    data = json.loads((PAYLOADS / f"{name}.json").read_text())
    kind = name.partition("_by")[0].partition("_private")[0]
    kind = kind.removesuffix(f"_{data['action']}") if "action" in data else kind
    action = f".{data['action']}" if "action" in data else ""
    return Event(
        type=f"com.github.{kind}{action}",
        source=data["repository"]["url"],
        id=f"delivery-{number}",
        time=f"2026-03-02T09:{number:02d}:00Z",
        data=data,
    )


def show(events: Sequence[Event], results: Sequence[Result]) -> None:
    for event, result in zip(events, results, strict=True):
        print(f"  {event.type:36} {type(result).__name__} {getattr(result, 'status', '')}".rstrip())


async def main() -> None:
    service = Service()
    events = [webhook(path.stem, number) for number, path in enumerate(sorted(PAYLOADS.glob("*.json")))]
    events.append(events[0])  # GitHub, or a broker between, may deliver twice
    broken = events[0].evolve(id="broken", data={"zen": "no repository"})
    async with service.receiver() as receiver, Sender(receiver.url, max_batch=50) as sender:
        print("What became of each event:")
        show([*events, broken], await sender.send_batch([*events, broken]))
        print("What was counted:", dict(sorted(service.feed.items())))
        async with aiohttp.ClientSession(receiver.url) as session:
            for path in (
                "/metrics/processor",
                "/processor/filters",
                "/processor/aggregation?aggregator=activity&key=acme/shop",
            ):
                async with session.get(path) as answer:
                    page = await answer.json()
                    print(path, "->", page.get("outcomes") or page.get("values") or list(page["stages"]))
    print("What the chain is made of:")
    print(s.describe(service.handler))


if __name__ == "__main__":
    asyncio.run(main())
