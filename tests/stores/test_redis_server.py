"""What `open_store` opens by Redis, and what it refuses, before any event is accepted, in words that say what to do."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from redis.asyncio import SSLConnection

from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.redis import RedisStore
from cloudevents_kit.stores.redis._url import Address
from tests.support.proxy import Proxy
from tests.support.real_servers import Valkey, free_port
from tests.support.redis import run

SECRET = "S3cret"


async def refused(url: str, patience: float = 0.1) -> str:
    """Open ``url``, which must fail; return what that says, and to nobody what is secret."""
    with pytest.raises(StoreError) as raised:
        async with open_store(url, patience=patience):
            pass
    error: BaseException | None = raised.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(raised.value)


@pytest.fixture
def start() -> Iterator[Callable[..., Valkey]]:
    """Starts servers, with options, which end with the test."""
    servers: list[Valkey] = []

    def start(*options: str, **given: int) -> Valkey:
        servers.append(Valkey(*options, **given))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


# URLs.


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://", "must name a host"),
        (f"redis://user:{SECRET}@/0", "must name a host"),
        (f"redis://:{SECRET}@host:port/0", "url: is none"),
        (f"redis://:{SECRET}@[host/0", "url: is none"),
        (f"redis://user:7?{SECRET}=1@host:1/0", "has a ? or # in its password"),
        (f"redis://user:7#{SECRET}@host:1/0", "has a ? or # in its password"),
        ("redis+http://host", "must begin with redis://, rediss:// "),
        ("unix://", "must name a socket"),
        ("unix:///", "must name a socket"),
        ("unix://host/run/socket", "must name a socket"),
        ("redis://host/events", "the database must be a number"),
        ("redis://host/-1", "the database must be a number"),
        ("redis://host/1/2", "the database must be a number"),
        ("redis://host/1?db=2", "the database must be a number"),
        ("redis://host/123456", "the database must be a number"),
        ("unix:///s?db=two", "the database must be a number"),
        ("redis://host/?colour=blue", "colour is unknown; options are db, eviction, max_connections"),
        (f"redis://host/?{SECRET}%3D=1", "an option that is unknown; options are"),
        ("redis://host/?ssl_ca_certs=/ca.pem", "ssl_ca_certs is unknown; options are"),
        ("redis://host/?eviction=yes", "eviction must be accept"),
        ("redis://host/?max_connections=0", "max_connections must be a number from 1"),
        ("redis://host/?max_connections=many", "max_connections must be a number from 1"),
        ("rediss://host/?ssl_cert_reqs=perhaps", "ssl_cert_reqs must be required or none"),
        ("rediss://host/?ssl_ca_certs=/nowhere.pem", "ssl_ca_certs must name a file that exists"),
    ],
)
async def test_a_url_that_makes_no_sense_is_refused_with_what_is_wrong(url: str, told: str) -> None:
    assert told in await refused(url)


def test_what_a_url_says_reaches_the_driver() -> None:
    address = Address(f"rediss://us%40er:{SECRET}%2F@host:7/3?max_connections=5&ssl_cert_reqs=none&eviction=accept")
    assert address.connection is SSLConnection
    assert address.arguments == {
        "host": "host", "port": 7, "db": 3, "username": "us@er", "password": f"{SECRET}/",
        "ssl_cert_reqs": "none", "ssl_check_hostname": False,
    }  # fmt: skip
    assert (address.max_connections, address.may_evict) == (5, True)
    assert address.name == "the Redis database 3 at host:7"
    assert Address("rediss://host").arguments["ssl_check_hostname"] is True


async def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    assert await refused("redis://host") == 'redis is not installed: pip install "cloudevents-kit[redis]"'


@pytest.mark.parametrize("form", ["redis+unix://{}?db=2", "unix://{}?db=2"])
async def test_a_socket_is_named_by_its_path(valkey: Valkey, form: str) -> None:
    async with open_store(form.format(valkey.socket)) as store:
        await store.cache.set("k", b"1", 10)
    assert await run(valkey.url(2), "GET", "cek:c:0::k") == b"1"
    assert await run(valkey.url(0), "GET", "cek:c:0::k") is None


async def test_a_server_at_a_port_is_named_by_host_and_database(start: Callable[..., Valkey]) -> None:
    server = start(port=free_port())
    async with open_store(server.url(5)) as store:
        assert await store.deduplication.claim("k", "t", 10) is None
    assert len(await run(server.url(5), "KEYS", "cek:d:*")) == 1


# Stores.


async def test_what_redis_does_not_keep_is_said_when_it_is_asked_for() -> None:
    store = open_store("redis://host")
    for name, told in (("queue", "queue"), ("outbox", "outbox"), ("sagas", "sagas"), ("dead_letters", "dead letters")):
        with pytest.raises(StoreError, match=f"{told}: Redis does not keep it .SQLite and PostgreSQL do"):
            getattr(store, name)


async def test_a_store_is_used_only_while_it_is_open(redis_url: str) -> None:
    store = open_store(redis_url)
    for _ in range(2):
        for call in (store.deduplication.claim("k", "t", 10), store.windows.windows(), store.cache.get("k")):
            with pytest.raises(StoreError, match="is not open: use it within `async with store`"):
                await call
        async with store:
            assert await store.deduplication.claim("k", "t", 10) is None


async def test_a_store_finishes_what_waits_when_it_is_closed(redis_url: str) -> None:
    async with open_store(redis_url) as store:
        claims = [asyncio.ensure_future(store.deduplication.claim(str(number), "t", 10)) for number in range(1500)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*claims) == [None] * 1500


async def test_scopes_share_the_server_and_nothing_else(redis_store: RedisStore) -> None:
    assert redis_store.scoped("a") is redis_store.scoped("a")
    assert redis_store.scoped("a").deduplication is redis_store.scoped("a").deduplication
    for scope in (redis_store, redis_store.scoped("a"), redis_store.scoped("b")):
        assert await scope.deduplication.claim("k", "t", 10) is None
        assert await scope.windows.add(0, "", ("/s", "1"), [1], lambda one, _: one, anywhere=False) == "counted"
    with pytest.raises(TypeError, match="name: must be"):
        redis_store.scoped(7)  # type: ignore[arg-type]


# Servers that cannot be used.


async def test_a_server_that_is_not_there_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    for url in (f"redis://:{SECRET}@127.0.0.1:{free_port()}/0", f"unix://:{SECRET}@{tmp_path}/none"):
        assert "cannot be reached: is the server running, and is its address right?" in await refused(url)


async def test_a_host_that_nobody_knows_is_said_to_be_out_of_reach() -> None:
    assert "the Redis database 0 at no.such.invalid:6379 cannot be reached" in await refused("redis://no.such.invalid")


async def test_a_wrong_password_is_refused_at_once(start: Callable[..., Valkey]) -> None:
    port = free_port()
    start("--requirepass", "right", port=port)
    for user in ("", f":{SECRET}@", f"nobody:{SECRET}@"):
        url = f"redis://{user}127.0.0.1:{port}"
        assert "refuses the user or the password of the URL" in await refused(url, patience=30)
    async with open_store(f"redis://:right@127.0.0.1:{port}") as store:
        assert await store.deduplication.claim("k", "t", 10) is None


async def test_a_user_without_rights_is_refused_and_one_who_may_not_look_around_is_not(valkey: Valkey) -> None:
    await run(valkey.url(), "ACL", "SETUSER", "guest", "on", f">{SECRET}", "~other:*", "+@all")
    await run(valkey.url(), "ACL", "SETUSER", "modest", "on", ">pw", "~cek:*", "+@all", "-info")
    url = valkey.url().replace("unix://", "unix://{}@")
    told = await refused(url.format(f"guest:{SECRET}"), patience=30)
    assert "does not let the user of the URL do that: grant" in told
    async with open_store(url.format("modest:pw")) as store:
        assert await store.deduplication.claim("modest", "t", 10) is None


async def test_a_database_number_that_the_server_does_not_have_is_refused_at_once(valkey: Valkey) -> None:
    assert "has no database of that number" in await refused(valkey.url(99), patience=30)


async def test_a_replica_is_refused(start: Callable[..., Valkey]) -> None:
    server = start("--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "yes")
    assert "is read-only, a replica: name its primary" in await refused(server.url())
    await run(server.url(), "CONFIG", "SET", "replica-serve-stale-data", "no")
    assert "is a replica that has lost its primary" in await refused(server.url())
    await run(server.url(), "CONFIG", "SET", "replica-read-only", "no")
    await run(server.url(), "CONFIG", "SET", "replica-serve-stale-data", "yes")
    assert "is a replica that can be written, and forgets that" in await refused(server.url())


async def test_a_full_server_is_refused_and_one_that_becomes_full_says_so(start: Callable[..., Valkey]) -> None:
    server = start()
    async with open_store(server.url(), patience=30) as store:
        assert await store.deduplication.claim("k", "t", 1000) is None
        await run(server.url(), "CONFIG", "SET", "maxmemory", "1")
        assert "has no memory left: raise its maxmemory" in await refused(server.url(), patience=30)
        for call in (
            store.deduplication.claim("other", "t", 10),
            store.windows.add(0, "", ("/s", "1"), [1], lambda one, _: one, anywhere=False),
            store.cache.set("k", b"1", 10),
        ):
            with pytest.raises(StoreError, match="has no memory left"):
                await call
        assert await store.cache.get("k") is None
        await run(server.url(), "CONFIG", "SET", "maxmemory", "0")
        assert await store.deduplication.commit("k", "t", b"", 10)
        assert await store.windows.windows() == []


async def test_a_server_that_would_forget_claims_is_refused_unless_that_is_wanted(start: Callable[..., Valkey]) -> None:
    server = start("--maxmemory-policy", "volatile-lru")
    async with open_store(server.url()):  # there is no limit
        pass
    await run(server.url(), "CONFIG", "SET", "maxmemory", "100mb")
    told = await refused(server.url(), patience=30)
    assert "set maxmemory-policy to noeviction (it is volatile-lru), or add eviction=accept" in told
    async with open_store(f"{server.url()}&eviction=accept") as store:
        await store.cache.set("k", b"1", 10)


async def test_a_cluster_is_refused(start: Callable[..., Valkey]) -> None:
    server = start("--cluster-enabled", "yes", "--cluster-port", str(free_port()), port=free_port())
    assert "is a Redis Cluster: name a server that has all keys" in await refused(server.url(), patience=30)


async def test_a_server_that_cannot_write_to_its_disk_says_so(start: Callable[..., Valkey], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    server = start("--appendonly", "no", "--save", "1000000 1", "--dir", str(folder))
    async with open_store(server.url()) as store:
        folder.rmdir()
        await run(server.url(), "BGSAVE")
        told = await run(server.url(), "INFO", "persistence")
        while told["rdb_last_bgsave_status"] == "ok":
            await asyncio.sleep(0.02)
            told = await run(server.url(), "INFO", "persistence")
        with pytest.raises(StoreError, match="cannot write to its disk: free space there"):
            await store.deduplication.claim("k", "t", 10)
        assert "cannot write to its disk" in await refused(server.url(), patience=30)
    server.kill()  # it would not end by itself


async def test_keys_of_a_newer_release_are_refused(redis_url: str) -> None:
    async with open_store(redis_url):
        assert await run(redis_url, "GET", "cek:format") == b"1"
    await run(redis_url, "SET", "cek:format", "2")
    told = await refused(redis_url)
    assert "is of a newer release: its keys have version 2, and this release knows 1" in told
    assert await run(redis_url, "GET", "cek:format") == b"2"
    await run(redis_url, "SET", "cek:format", "mine")
    assert "has a key cek:format that is not of this kit: name another database" in await refused(redis_url)
    assert await run(redis_url, "GET", "cek:format") == b"mine"
    await run(redis_url, "FLUSHALL")


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """Give the URL of a server that answers every question with the next of ``answers``, the last again and again."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                writer.write(left.pop(0) if len(left) > 1 else left[0])
        except OSError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"-LOADING Valkey is loading the dataset in memory", "is loading its data"),
        (b"-BUSY Valkey is busy running a script", "is busy with somebody's script"),
        (b"-NOREPLICAS Not enough good replicas to write.", "has too few replicas at the moment"),
        (b"-ERR max number of clients reached", "has no connection left"),
        (b"-ERR unknown command 'INFO', with args beginning with: 'S3cret'", "answers with an error: is it Redis 6"),
        (b"HTTP/1.1 400 Bad Request", "does not talk as Redis does"),
    ],
)
async def test_what_the_server_answers_is_told(answer: bytes, told: str) -> None:
    async with answering(answer + b"\r\n") as url:
        assert told in await refused(url)


# TLS.


@pytest.fixture
async def over_tls(valkey: Valkey, tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """A port that talks TLS, and the file of the authority behind its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Proxy.to_socket(valkey.socket, context) as proxy:
        yield proxy.port, tmp_path / "ca.pem"


async def test_a_server_over_tls_is_used_if_its_certificate_is_known(over_tls: tuple[int, Path]) -> None:
    port, authority = over_tls
    async with open_store(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}") as store:
        await store.cache.set("tls", b"1", 10)
        assert await store.cache.get("tls") == b"1"
    async with open_store(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none") as store:
        assert await store.cache.get("tls") == b"1"


async def test_one_of_which_nobody_knows_who_it_is_is_refused_at_once(
    over_tls: tuple[int, Path], loop_errors: list[str]
) -> None:
    port, authority = over_tls
    assert "cannot be reached by TLS: look at its certificate" in await refused(f"rediss://127.0.0.1:{port}", 30)
    told = await refused(f"rediss://localhost:{port}?ssl_ca_certs={authority}", 30)
    assert "cannot be reached by TLS" in told
    assert "cannot be reached" in await refused(f"redis://127.0.0.1:{port}", 0.3)
    loop_errors.clear()
