"""Takes out of texts what must not be kept or shown: the secrets in URLs, and what is plainly one elsewhere.

Knows nothing of events. What is secret without looking like it, nobody can tell.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus, urlsplit, urlunsplit

#: Characters of a URL, or of a name, that are looked at; the rest is left out.
_LONGEST = 2000
#: A value in a query that is as long as this is hidden, whatever its name.
_LONGEST_SHOWN = 32
_HIDDEN = "***"

_secret = re.compile(
    r"token|secret|passw|pwd|passphrase|credential|auth|jwt|session|cookie|signature|assertion|(^|[-_.])sig($|[-_.])|key"
    r"|^(code|sig|sas|pin|otp|user|login|email|p|pw)$"
).search
_url = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s"'<>]+""")
#: A value in quotes, or up to the end of a word. What is bounded here takes no longer for a text made to take long.
_value = r"""(\\{0,2}["'])?(?:(?<=")(?:[^"\\\n]|\\.){1,4000}|(?<=')(?:[^'\\\n]|\\.){1,4000}|[^\s"'&;,]{1,4000})"""
_is = r"""\\{0,2}["']?[ \t]{0,3}(?:=>|[=:])[ \t]{0,3}"""
_named = re.compile(
    rf"(?i)((?:passw(?:or)?[dt]?s?|passphrase|pwd|secrets?|token|credentials?|jwt|\b(?:pass|sid|session(?:[_-]?id)?(?==))"
    rf"|(?:api|access|account|auth|private|secret|signing)[_-]?key){_is}){_value}"
)
_header = re.compile(
    rf"""(?i)\b((?:proxy-)?authorization{_is}\\{{0,2}}["']?(?:[a-z][\w-]{{0,30}} {{1,3}})?)[^\s"',;]{{1,4000}}"""
    rf"""|\b((?:set-)?cookie{_is})(?:{_value}[^"'\n]{{0,4000}})"""
)
_token = re.compile(r"(?i)\b((?:bearer|basic|digest) {1,3})(?=[a-z]{0,100}[\d+/=]|[\w.~-]{16})[\w.~+/=:-]{1,4000}")


def without_secrets(destination: str) -> str:
    """Return ``destination``; of a URL without user, password and fragment, and with secrets in its query hidden.

    Hidden is what its name gives away, what has no name, and whatever is long. What else is secret, a part of the
    path, nobody can tell.
    """
    shown = "".join(char if char.isprintable() else "_" for char in destination[:_LONGEST])
    if "://" not in shown:
        return shown
    try:
        parts = urlsplit(shown)
    except ValueError:  # it names no host
        scheme, _, rest = shown.partition("://")
        return f"{scheme}://{re.split('[?#]', rest)[0].rpartition('@')[2]}"
    query = re.sub("[^&;]+", lambda pair: _shown(pair[0]), parts.query)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _shown(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return _HIDDEN
    hide = len(value) >= _LONGEST_SHOWN or _secret(unquote_plus(name).lower()) is not None
    return f"{name}={_HIDDEN}" if hide and value else pair


def text_without_secrets(text: str) -> str:
    """Return ``text`` without the secrets of URLs in it, tokens, cookies, and the like of ``password=...``."""
    text = _url.sub(lambda found: without_secrets(found[0]), text)
    for pattern in (_header, _named, _token):
        text = pattern.sub(_hide, text)
    return text


def _hide(found: re.Match[str]) -> str:
    return "".join(group or "" for group in found.groups()) + _HIDDEN
