"""Receive events over HTTP, in a process of one's own or inside an aiohttp application.

    Receiver(router, host="127.0.0.1", port=8080).run()

    async with Receiver(router, port=0) as receiver:
        print(receiver.url)

The handler's end decides the answer (see `settle`); `_inbound` decides everything else. Here are only sockets,
signals and the order of starting and stopping.
"""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import ssl as tls
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Self

from aiohttp import web

from cloudevents_kit._arguments import check_count, check_kind, check_not_negative, check_path, check_positive
from cloudevents_kit._contract import Handler, Middleware, SyncHandler, log
from cloudevents_kit._endpoints import Endpoints, check_endpoints
from cloudevents_kit._inbound import Inbound, Limits
from cloudevents_kit._server import AioHttpAdapter, EventServer

_LAST_ANSWERS = 1.0
_LAST_PORT = 65535


class Receiver:
    """Serves one handler. Durations are in seconds, sizes in bytes.

    Args:
        handler: gets each event; a plain function runs in a thread.
        stages: middlewares around it, the first one outermost.
        host: address to listen on.
        port: port to listen on; 0 takes a free one, see `url`.
        path: where events are posted; other paths are answered 404.
        ssl: context to serve https.
        max_body: larger bodies, inflated or not, are answered 413.
        max_batch: events in a batch; more are answered 413. With 0, every batch is answered 415.
        batch_concurrency: events of one batch handled at once. Stages that gather or hold events want more than 1.
        max_in_flight: requests handled at once; more are answered 503 with Retry-After, their body unread.
        body_timeout: for a body to arrive; a later one is answered 408.
        handler_timeout: for a request to be handled; then its handler is cancelled and the answer is 503.
        idle_timeout: for the next request on a kept-alive connection, headers included.
        drain_delay: between readiness turning red and the listener closing, for load balancers to notice.
        grace: for requests in flight when stopping; then they are cancelled and answered 503.
        resources: async context managers, opened at start and closed at stop; so are handler and stages that are some
            themselves, and whatever these hand events to, but for sinks. What an event reaches last is opened first and
            closed last; resources are opened before and closed after all.
        endpoints: functions by path, sync or async, to be read there with GET: each gets the parameters of the query
            and returns what is shown as JSON. They run in the loop: they must not block. See `stages.endpoints`.
    """

    def __init__(
        self,
        handler: Handler | SyncHandler,
        *stages: Middleware,
        host: str = "127.0.0.1",
        port: int = 8080,
        path: str = "/",
        ssl: tls.SSLContext | None = None,
        max_body: int = 4 * 2**20,
        max_batch: int = 1000,
        batch_concurrency: int = 1,
        max_in_flight: int = 1000,
        body_timeout: float = 10.0,
        handler_timeout: float = 30.0,
        idle_timeout: float = 75.0,
        drain_delay: float = 0.0,
        grace: float = 10.0,
        resources: Sequence[AbstractAsyncContextManager[Any]] = (),
        endpoints: Endpoints | None = None,
    ) -> None:
        """Compose the chain; nothing is opened yet. Raises TypeError or ValueError naming the wrong argument."""
        check_path(path)
        check_kind("host", host, str, 'a str such as "127.0.0.1"')
        if check_count("port", port, least=0) > _LAST_PORT:
            raise ValueError(f"port: must be {_LAST_PORT} or less, not {port}")
        if ssl is not None:
            check_kind("ssl", ssl, tls.SSLContext, "an SSLContext, made for the server's side")
        check_positive("idle_timeout", idle_timeout)
        for name, seconds in (("drain_delay", drain_delay), ("grace", grace)):
            check_not_negative(name, seconds)
        limits = Limits(
            max_body=max_body,
            max_batch=max_batch,
            batch_concurrency=batch_concurrency,
            max_in_flight=max_in_flight,
            body_timeout=body_timeout,
            handler_timeout=handler_timeout,
        )
        self._inbound = Inbound(handler, stages, limits, resources, check_endpoints(endpoints, path))
        self._adapter = AioHttpAdapter(self._inbound, path)
        self._host, self._port, self._path, self._ssl = host, port, path, ssl
        self._idle_timeout, self._drain_delay, self._grace = idle_timeout, drain_delay, grace
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._changing = asyncio.Lock()  # one start or stop at a time; a stop waits for the start before it

    @property
    def counts(self) -> Mapping[str, int]:
        """Events by outcome, and requests refused unread, since this object was made."""
        return self._inbound.counts

    @property
    def ready(self) -> bool:
        """Tell whether events are taken: listening and not stopping."""
        return self._adapter.ready and not self._inbound.stopping

    @property
    def port(self) -> int:
        """The port listened on. Raises RuntimeError when not started."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the receiver is not started")
        return int(self._runner.addresses[0][1])

    @property
    def url(self) -> str:
        """Where to send events. Raises RuntimeError when not started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}{self._path}"

    async def start(self) -> None:
        """Open stages and resources, then listen. Raises OSError for a taken port, RuntimeError if started already."""
        async with self._changing:
            if self._runner is not None or self._adapter.ready:
                raise RuntimeError("the receiver is started already")
            await self._inbound.lifecycle.open()
            try:
                await self._listen()
            except BaseException as error:
                await self._close(error)
                raise

    async def _listen(self) -> None:
        self._inbound.reopen()
        server = EventServer(
            self._adapter.handle,
            access_log=None,
            keepalive_timeout=self._idle_timeout,
            lingering_time=self._inbound.limits.body_timeout,  # for what is left of a body that was refused
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_LAST_ANSWERS)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._ssl, backlog=1024)
        await self._site.start()
        self._adapter.ready = True
        log.info("receiving at %s", self.url)

    async def stop(self, *, grace: float | None = None) -> int:
        """Stop without losing an event; return the number of requests that were cut off, and so will be sent again.

        Readiness turns red, ``drain_delay`` passes, the listener closes, requests in flight have ``grace`` to end,
        the rest is cancelled and answered 503, and stages, handler and resources are closed. Harmless when stopped.
        ``grace``, if given, takes the place of the receiver's own, and there is no ``drain_delay``.
        """
        async with self._changing:
            if self._site is None:
                return 0
            self._inbound.stopping = True
            self._adapter.ready = False
            try:
                if self._drain_delay and grace is None:
                    await self._inbound.pause(self._drain_delay)
                await self._site.stop()
                self._inbound.lifecycle.drain()
                cut = await self._drain(self._grace if grace is None else grace)
            finally:
                await self._close()
        log.info("receiver stopped, %d requests cut off", cut)
        return cut

    async def _drain(self, grace: float) -> int:
        """Wait for the requests in flight, then cut them off; return how many those were."""
        if await self._inbound.wait_idle(grace):
            return 0
        cut = self._inbound.cut_off()
        await self._inbound.wait_idle(_LAST_ANSWERS)
        return cut

    async def _close(self, why: BaseException | None = None) -> None:
        """Close whatever is open. Raises ExceptionGroup, with ``why`` among its errors."""
        runner, self._runner, self._site = self._runner, None, None
        assert runner is not None  # noqa: S101 - it is the first thing that a start makes
        try:
            await runner.cleanup()
        finally:
            self._inbound.close()
            await self._inbound.lifecycle.close(why)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then stop gracefully; a second signal hurries. Uses uvloop if installed."""
        if _inside_a_loop():
            raise RuntimeError("run() has a loop of its own: inside a running one, use `async with receiver`")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signals.put_nowait, number)
        try:
            await self._until(signals)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)  # a loop that is closed may go on swallowing them

    async def _until(self, signals: asyncio.Queue[signal.Signals]) -> None:
        starting = asyncio.ensure_future(self.start())
        stop = asyncio.ensure_future(signals.get())
        await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            await self.stop()  # the part that was being opened may have ignored the cancellation
            return
        starting.result()
        log.info("stopping on %s", (await stop).name)
        stopping = asyncio.ensure_future(self.stop())
        hurry = asyncio.ensure_future(signals.get())
        hurry.add_done_callback(lambda _: self._inbound.hurry())
        await stopping

    @property
    def app(self) -> web.Application:
        """A new aiohttp application to serve or to mount with ``add_subapp``; it opens and closes the stages."""
        return self._adapter.application()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    uvloop: Any = importlib.import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
