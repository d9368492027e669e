"""Opens a receiver's parts in order and closes them in reverse, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any


class Lifecycle:
    """The parts among ``things`` that are async context managers."""

    def __init__(self, things: Iterable[object]) -> None:
        """Remember the parts in the order in which they are to be opened."""
        self._parts = [thing for thing in things if isinstance(thing, AbstractAsyncContextManager)]
        self._open: list[AbstractAsyncContextManager[Any]] = []

    async def open(self) -> None:
        """Enter every part; if one fails, leave those entered before it. Raises ExceptionGroup."""
        for part in self._parts:
            try:
                await part.__aenter__()
            except Exception as error:  # noqa: BLE001 - reported in a group, after the rest was closed
                raise ExceptionGroup(
                    "a part of the receiver did not start", [error, *await self._close_all()]
                ) from None
            except BaseException:  # cancelled: nothing may stay open
                await self._close_all()
                raise
            self._open.append(part)

    async def close(self, why: BaseException | None = None) -> None:
        """Leave every part that was entered, the last one first. Raises ExceptionGroup with all errors.

        ``why`` is the error that made this necessary, if any; it is raised with those that followed from it.
        """
        errors = await self._close_all()
        if errors:
            errors = [why, *errors] if isinstance(why, Exception) else errors
            raise ExceptionGroup("parts of the receiver did not stop cleanly", errors)

    async def _close_all(self) -> list[Exception]:
        errors = []
        while self._open:
            try:
                await self._open.pop().__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - reported in a group, after the rest was closed
                errors.append(error)
            except BaseException:  # cancelled: the rest is closed all the same
                await self._close_all()
                raise
        return errors
