"""Mask passwords in texts that the pool shows: an error of a connect, above all, may quote the connection string."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import psycopg2
from psycopg2.extensions import parse_dsn

from pgpool_rs._foreign import CAUSED, asked

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = "***"

_SECRET_OPTION = re.compile(r"passw(or)?d|secret|scram_|token", re.IGNORECASE)
_URI = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
# The password in a connection string of either form.
_IN_CONNECTION_STRING = re.compile(r"(?<=://).*(?=@)|passw\w*\s*=\s*('(\\.|[^'])*'?|\S+)", re.IGNORECASE | re.DOTALL)
_PORTS = re.compile(r"[\d,\s]*")
# The characters at which libpq splits a connection string. Its errors may quote one of the parts.
_DIVIDERS = re.compile(r"[\s\0=:/@?&#,'\"\\]+")
# Half of all words contain a text that is shorter than this.
_SHORT = 3


def mask(text: str, args: Any, kwargs: Any) -> str:
    """Replace each secret of these arguments of psycopg2.connect by `***` in the text.

    The function finds a secret as a URI, a connection string, Python or JSON escape it. It masks a secret of fewer than
    3 characters only where it is a word by itself. If it cannot read the arguments, it masks the whole text. It raises
    nothing of its own; a signal handler may raise in it.
    """
    try:
        secrets = {secret for secret in _of_arguments(args, kwargs) if secret}
        if not secrets:
            return text
        # The longest first, since one secret may contain another.
        patterns = map(_pattern, sorted(secrets, key=len, reverse=True))
        return re.sub("|".join(patterns), MASK, text)
    except CAUSED:  # arguments that we cannot read may contain any secret
        return MASK


def is_uri(dsn: str) -> bool:
    """Return whether libpq reads this connection string as a URI."""
    return _URI.match(dsn) is not None


def mask_name(name: str, args: Any, kwargs: Any) -> str:
    """Mask the passwords in a pool's name: some programs name a pool by its connection string."""
    shown = mask(name, (name,), {}) if _URI.match(name) else name
    shown = _IN_CONNECTION_STRING.sub(MASK, shown)
    return name if shown == name else mask(shown, args, kwargs)


def _of_arguments(args: Any, kwargs: Any) -> Iterator[str]:
    args = args if type(args) is tuple else asked(tuple, args)
    if args:
        for dsn in _texts(args[0]):
            yield from _of_dsn(dsn)
    yield from _of_options(kwargs if type(kwargs) is dict else asked(dict, kwargs))


def _texts(value: Any) -> tuple[str, ...]:
    """Return a value as psycopg2 writes it into a connection string, and bytes also as text."""
    if value is None:
        return ()
    text, kind = asked(str, value), type(value)
    if issubclass(kind, bytes | bytearray | memoryview):
        return text, asked(bytes, value).decode("utf-8", "surrogateescape")
    # A subclass may override __str__: the first is its content.
    return (str.__str__(value), text) if issubclass(kind, str) else (text,)


def _of_options(options: Any) -> Iterator[str]:
    """Yield the secrets among a connection's options, given by name."""
    for key, given in options.items():
        name = str.__str__(key)
        for value in _texts(given):
            if _SECRET_OPTION.search(name):
                yield value
                yield unquote(value)
            elif name == "dsn" or _URI.match(value) or _IN_CONNECTION_STRING.search(value):
                yield from _of_dsn(value)
            elif name == "port" and not _PORTS.fullmatch(value):
                # If a password contains a slash, libpq takes a part of it for the port.
                yield from _with_parts(value)


def _of_dsn(dsn: str) -> Iterator[str]:
    """Yield the secrets in a connection string."""
    try:
        options = parse_dsn(dsn)
    except (psycopg2.Error, ValueError):  # any part of it may be the secret
        yield from _with_parts(dsn)
        return
    yield from _of_options(options)
    if _URI.match(dsn):
        # libpq ends a password at an @ or a / that is not encoded, and takes the rest for a host.
        userinfo = dsn.partition("//")[2].partition("?")[0].rpartition("@")[0]
        password = userinfo.partition(":")[2]
        if unquote(password) != options.get("password", ""):
            yield from _with_parts(password)


def _with_parts(given: str) -> Iterator[str]:
    """Yield a text that libpq may have split anywhere, and its parts."""
    for form in (given, unquote(given)):
        yield form
        yield from _DIVIDERS.split(form)


def _pattern(secret: str) -> str:
    """Return a pattern that finds a secret, whichever of its characters are escaped."""
    pattern = "".join(map(_pattern_of_part, re.findall(r"\\+|[^\\]", secret)))
    return pattern if len(secret) >= _SHORT else rf"(?<!\w){pattern}(?!\w)"


def _pattern_of_part(part: str) -> str:
    """Return a pattern for one character, or for a run of backslashes, which each escaping doubles."""
    if part[0] == "\\":
        return r"(?:\\|%5[Cc])+"
    percent = "".join(f"%{byte:02x}" for byte in part.encode("utf-8", "surrogatepass"))
    forms = [re.escape(part), f"(?i:{percent})"]
    if part == " ":
        forms.append(r"\+")
    if part in "'\"/":
        forms.append(r"\\+" + part)
    # The escapes of control characters and of characters beyond ASCII, with one or more backslashes.
    escaped = {ascii(part)[1:-1], json.dumps(part)[1:-1]} - {part, "\\" + part}
    forms += [r"\\+".join(map(re.escape, form.split("\\"))) for form in escaped]
    return f"(?:{'|'.join(forms)})"
