"""The URL of a Redis or Valkey server, and what it means to the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from cloudevents_kit._errors import StoreError

_OPTIONS = ("db", "eviction", "max_connections")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_CHECKS = ("required", "none")


class Address:
    """Where a server is, and how to get there."""

    def __init__(self, url: str) -> None:
        """Read ``url``. Raises StoreError, which tells nothing of it that may be secret."""
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
        except ValueError:
            raise StoreError("url: is none, such as redis://host:6379/0") from None
        self.arguments: dict[str, Any] = {}
        """For each connection."""
        options = self._options(parts)
        by_path = parts.scheme in {"unix", "redis+unix"}
        if by_path:
            self.connection: Any = UnixDomainSocketConnection
            if parts.hostname or len(parts.path) < 2:
                raise StoreError("url: must name a socket, such as unix:///run/valkey.sock?db=0")
            place = self.arguments["path"] = unquote(parts.path)
        elif parts.scheme in {"redis", "rediss"}:
            self.connection = SSLConnection if parts.scheme == "rediss" else Connection
            if not parts.hostname:
                raise StoreError("url: must name a host, such as redis://localhost:6379/0")
            self.arguments |= {"host": parts.hostname, "port": port}
            place = f"{parts.hostname}:{port}"
        else:
            raise StoreError("url: must begin with redis://, rediss:// (by TLS) or unix:// (a socket)")
        number = self._number(parts, options, by_path=by_path)
        self.arguments["db"] = number
        self.name = f"the Redis database {number} at {place}"
        for name, value in (("username", parts.username), ("password", parts.password)):
            if value:
                self.arguments[name] = unquote(value)
        self.may_evict = options.pop("eviction", None) == "accept"
        """Whether it does not matter if the server forgets."""
        most = options.pop("max_connections", "20")
        if not (most.isdecimal() and 0 < int(most) <= 10_000):
            raise StoreError("url: max_connections must be a number from 1")
        self.max_connections = int(most)
        if parts.scheme == "rediss":
            self.arguments |= _tls(options)

    def _options(self, parts: SplitResult) -> dict[str, str]:
        known = (*_OPTIONS, "ssl_cert_reqs", *_TLS_FILES) if parts.scheme == "rediss" else _OPTIONS
        if "@" in parts.query or parts.fragment:  # it may be the rest of a password
            raise StoreError("url: has a ? or # in its password, or behind its end, which must be percent-encoded")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in options:
            if name not in known:
                told = name if name.replace("_", "").isalnum() and len(name) <= 24 else "an option that"
                raise StoreError(f"url: {told} is unknown; options are {', '.join(known)}")
        if options.get("eviction", "accept") != "accept":
            raise StoreError("url: eviction must be accept, or not be there")
        return options

    def _number(self, parts: SplitResult, options: dict[str, str], *, by_path: bool) -> int:
        in_path = "" if by_path else parts.path.strip("/")
        text = options.pop("db", None) or in_path or "0"
        if (in_path and in_path != text) or not (text.isascii() and text.isdecimal() and len(text) < 6):
            raise StoreError("url: the database must be a number from 0, such as redis://host:6379/0")
        return int(text)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    checks = options.get("ssl_cert_reqs", "required")
    if checks not in _TLS_CHECKS:
        raise StoreError(f"url: ssl_cert_reqs must be {' or '.join(_TLS_CHECKS)}")
    for name in _TLS_FILES:
        if name in options and not Path(options[name]).is_file():
            raise StoreError(f"url: {name} must name a file that exists")
    return {**options, "ssl_cert_reqs": checks, "ssl_check_hostname": checks == "required"}
