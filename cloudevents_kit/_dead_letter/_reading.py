"""Dead letters that are in a store: look at them, and throw them away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from datetime import timedelta

from cloudevents_kit._arguments import check_count, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import log
from cloudevents_kit._filters import Filter
from cloudevents_kit._letters import DeadLetter, DeadLetterStore
from cloudevents_kit.stages._calls import check_plain, plain

Choice = Filter | Callable[[DeadLetter], bool]
_PAGE = 50


async def letters(
    store: DeadLetterStore,
    filter: Choice | None = None,  # noqa: A002 - the word of the Subscriptions API
) -> AsyncGenerator[DeadLetter]:
    """Go through the letters of ``store`` in order: all, or those whose event or letter ``filter`` passes."""
    check_store(store)
    fits = chooser(filter)
    after = 0
    while page := await store.read(after, _PAGE):
        for letter in page:
            after = letter.position
            if fits(letter):
                yield letter


def check_store(store: object, *methods: str) -> None:
    """Raise TypeError unless ``store`` keeps dead letters: of what `open_store` returns, one part does."""
    if hasattr(type(store), "dead_letters"):
        raise TypeError(f"store: must be a DeadLetterStore, not {type(store).__name__} (use store.dead_letters)")
    check_methods("store", store, "a DeadLetterStore", *(methods or ("add", "read", "lease", "settle", "purge")))


def chooser(choice: Choice | None) -> Callable[[DeadLetter], bool]:
    """Return ``choice`` as a function of the letter."""
    if choice is None:
        return lambda _: True
    if isinstance(choice, Filter):
        return lambda letter: choice(letter.event)
    check_plain("filter", choice)
    return lambda letter: bool(plain(choice(letter)))


async def purge(
    store: DeadLetterStore, *, older_than: float | None = None, keep: int | None = None, clock: Clock | None = None
) -> int:
    """Throw dead letters away, for ever, and return how many; the log has their number.

    Those whose last failure is more than ``older_than`` seconds ago go, and all but the ``keep`` newest. What is being
    redriven stays.
    """
    check_store(store)
    if older_than is None and keep is None:
        raise ValueError("purge: needs older_than, keep or both (keep=0 throws everything away)")
    before = None
    if older_than is not None:
        check_positive("older_than", older_than)
        before = (clock or SystemClock()).now() - timedelta(seconds=older_than)
    if keep is not None:
        check_count("keep", keep, least=0)
    removed = await store.purge(before, keep)
    rules = [] if older_than is None else [f"last failed more than {older_than:g} s ago"]
    rules += [] if keep is None else [f"beyond the newest {keep}"]
    log.warning("purged %d dead letters for good: %s", removed, ", or ".join(rules))
    return removed
