"""Take passwords out of what is shown: errors of a connect, above all, may quote the connection string."""

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
# Where a connection string of any kind has a password.
_IN_CONNECTION_STRING = re.compile(r"(?<=://).*(?=@)|passw\w*\s*=\s*('(\\.|[^'])*'?|\S+)", re.IGNORECASE | re.DOTALL)
_PORTS = re.compile(r"[\d,\s]*")
# Characters at which libpq divides a connection string, before it complains of one of the parts.
_DIVIDERS = re.compile(r"[\s=:/@?&#,'\"\\]+")
# What is shorter than this is found in half of all words.
_SHORT = 3


def mask(text: str, args: Any, kwargs: Any) -> str:
    """Return the text with `***` in the place of each secret that is in these arguments of psycopg2.connect.

    A secret is found however it is escaped: as a URI, a connection string, Python or JSON have it. One that is shorter
    than 3 characters is masked only where it stands by itself. Where it cannot tell, all of it goes; it raises nothing
    but what a signal handler raises in it.
    """
    try:
        secrets = {secret for secret in _of_arguments(args, kwargs) if secret}
        if not secrets:
            return text
        # The longest first, since one may be a part of another.
        patterns = map(_pattern, sorted(secrets, key=len, reverse=True))
        return re.sub("|".join(patterns), MASK, text)
    except CAUSED:  # what cannot be looked through may have anything in it
        return MASK


def mask_name(name: str, args: Any, kwargs: Any) -> str:
    """Return a pool's name as it may be shown: some programs name a pool by its connection string."""
    shown = _IN_CONNECTION_STRING.sub(MASK, name)
    return name if shown == name else mask(shown, args, kwargs)


def _of_arguments(args: Any, kwargs: Any) -> Iterator[str]:
    args = args if type(args) is tuple else asked(tuple, args)
    if args:
        for dsn in _texts(args[0]):
            yield from _of_dsn(dsn)
    yield from _of_options(kwargs if type(kwargs) is dict else asked(dict, kwargs))


def _texts(value: Any) -> tuple[str, ...]:
    """Give a value as psycopg2 writes it into a connection string, and bytes as a program may read them, too."""
    if value is None:
        return ()
    text, kind = asked(str, value), type(value)
    if issubclass(kind, bytes | bytearray | memoryview):
        return text, asked(bytes, value).decode("utf-8", "surrogateescape")
    # A subclass's own text, without its methods.
    return (str.__str__(value), text) if issubclass(kind, str) else (text,)


def _of_options(options: Any) -> Iterator[str]:
    """Find the secrets among a connection's options, given by name."""
    for key, given in options.items():
        name = str.__str__(key)
        for value in _texts(given):
            if _SECRET_OPTION.search(name):
                yield value
                yield unquote(value)
            elif name == "dsn" or _URI.match(value):
                yield from _of_dsn(value)
            elif name == "port" and not _PORTS.fullmatch(value):
                # libpq ends the host's name at a colon, a password with a slash in it included.
                yield from _with_parts(value)


def _of_dsn(dsn: str) -> Iterator[str]:
    """Find the secrets in a connection string."""
    try:
        options = parse_dsn(dsn)
    except (psycopg2.Error, ValueError):  # nobody knows what is what in it
        yield from _with_parts(dsn)
        return
    yield from _of_options(options)
    if _URI.match(dsn):
        # A password with an @ or a / that was not encoded ends there for libpq, which takes the rest for a host.
        userinfo = dsn.partition("//")[2].partition("?")[0].rpartition("@")[0]
        password = userinfo.partition(":")[2]
        if unquote(password) != options.get("password", ""):
            yield from _with_parts(password)


def _with_parts(given: str) -> Iterator[str]:
    """Give all of a text that libpq may have divided anyhow, and its parts."""
    for form in (given, unquote(given)):
        yield form
        yield from _DIVIDERS.split(form)


def _pattern(secret: str) -> str:
    """Write a pattern that finds a secret, whichever of its characters are escaped."""
    pattern = "".join(map(_pattern_of_part, re.findall(r"\\+|[^\\]", secret)))
    return pattern if len(secret) >= _SHORT else rf"(?<!\w){pattern}(?!\w)"


def _pattern_of_part(part: str) -> str:
    """Write a pattern for one character, or for a run of backslashes, which escaping doubles, time and again."""
    if part[0] == "\\":
        return r"(?:\\|%5[Cc])+"
    percent = "".join(f"%{byte:02x}" for byte in part.encode("utf-8", "surrogatepass"))
    forms = [re.escape(part), f"(?i:{percent})"]
    if part == " ":
        forms.append(r"\+")
    if part in "'\"/":
        forms.append(r"\\+" + part)
    # Control characters and what is not ASCII: a backslash and what names them, once or twice.
    escaped = {ascii(part)[1:-1], json.dumps(part)[1:-1]} - {part, "\\" + part}
    forms += [r"\\+".join(map(re.escape, form.split("\\"))) for form in escaped]
    return f"(?:{'|'.join(forms)})"
