"""What is shown of a text that may quote the arguments of a connect: all of it but the secrets."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from pgpool_rs._secrets import mask, mask_name

SECRET = "p@ss/w0rd#x"
PARTS = ("p@s", "ss/", "w0r", "rd#", "0rd")


def masked(text: str, *args: Any, **kwargs: Any) -> str:
    """Mask the secrets of psycopg2.connect(*args, **kwargs) in a text."""
    return mask(text, args, kwargs)


@pytest.mark.parametrize(
    "option", ["password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret", "passwd"]
)
def test_the_secret_of_each_option_is_masked(option: str) -> None:
    assert masked(f"before {SECRET} after", **{option: SECRET}) == "before *** after"


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=db password={SECRET}",
        f"host=db password='{SECRET}' user=app",
        f"postgresql://app:{quote(SECRET, safe='')}@db/shop",
        f"postgres://app:{quote(SECRET, safe='').lower()}@db:5432,other/shop?connect_timeout=5",
        f"postgresql://db/shop?user=app&password={quote(SECRET, safe='')}",
        f"host=db sslpassword={SECRET}",
    ],
)
def test_the_secret_of_a_connection_string_is_masked_wherever_it_is_given(dsn: str) -> None:
    text = f'say "{SECRET}" or {quote(SECRET, safe="")} of db'
    assert masked(text, dsn) == masked(text, dsn=dsn) == 'say "***" or *** of db'
    assert masked(dsn, dsn).count("***") == 1
    assert not [part for part in PARTS if part in masked(dsn, dsn)]


@pytest.mark.parametrize(
    "escape",
    [
        str,
        repr,
        ascii,
        json.dumps,
        quote,
        quote_plus,
        lambda secret: repr(repr(secret)),
        lambda secret: json.dumps(json.dumps(secret)),
        lambda secret: quote(secret, safe="").replace("%C3", "%c3"),
        lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
        lambda secret: make_dsn(password=secret),
    ],
)
def test_a_secret_is_found_however_it_is_escaped(escape: Any) -> None:
    secret = 'it\'s a \\ "säcret"\n%20'
    shown = masked(f"<{escape(secret)}>", password=secret)
    assert "***" in shown
    assert not [part for part in ("it", "cret", "%20", "5C") if part in shown], shown


def test_a_password_that_was_given_encoded_is_masked_decoded_too() -> None:
    assert masked("p%40ss is p@ss", password="p%40ss") == "*** is ***"


@pytest.mark.parametrize(
    "wrong",
    [
        f"postgresql://app:{SECRET}@127.0.0.1:1/shop",
        f"postgresql://app:{SECRET}@nowhere.invalid/shop",
        "postgresql://app:pa@ss%2Fw0rd@nowhere.invalid/shop",
        f"postgresql://app:w0rd/{SECRET}@nowhere.invalid/shop",
        f"postgresql://app:w0rd/?{SECRET}@nowhere.invalid/shop",
        "postgresql://app:p@ss%zzw0rd@nowhere.invalid/shop",
        f"postgresql://app:{SECRET}@[::1/shop",
        f"host=127.0.0.1 port=1 user=app password={SECRET} nonsense",
        f"host=127.0.0.1 password=my {SECRET}",
        f"host=127.0.0.1 password=my {SECRET}=x",
        f"host=127.0.0.1 port=1 password='{SECRET}",
        f"host=127.0.0.1 port={SECRET}",
        f"dbname=postgresql://app:{quote(SECRET)}@db/shop port=1 host=127.0.0.1",
    ],
)
def test_what_libpq_makes_of_a_wrong_connection_string_is_masked(wrong: str) -> None:
    with pytest.raises(psycopg2.Error) as raised:
        psycopg2.connect(wrong, connect_timeout=2)
    for text in (str(raised.value), wrong, repr(wrong)):
        shown = mask(text, (wrong,), {})
        assert not [part for part in (*PARTS, '"ss"', '"p"') if part in shown], shown


def test_a_uri_in_the_place_of_a_name_is_looked_through() -> None:
    uri = f"postgresql://app:{quote(SECRET, safe='')}@db/shop"
    assert masked(f'database "{uri}" does not exist', dbname=uri) == (
        'database "postgresql://app:***@db/shop" does not exist'
    )


def test_what_is_no_secret_stays() -> None:
    text = 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL: role "app" does not exist, see ~/.pgpass'
    address = {"host": "db", "port": "5432", "user": "app", "dbname": "shop", "passfile": "~/.pgpass"}
    assert masked(text) == text
    assert masked(text, **address) == text
    assert masked(text, make_dsn(**address), password=SECRET) == text
    assert masked(text, f"postgresql://app:{quote(SECRET)}@db:5432/shop?options=x%40y") == text
    assert masked(text, "postgresql://app:x:role@db:5432/shop") == text
    assert masked(text, "postgresql://app:secret@db:5432,db:5433/shop?application_name=a@b") == text


def test_a_short_secret_is_masked_only_where_it_stands_by_itself() -> None:
    text = "password='ab' in ab://u:ab@host, about a table, crab"
    assert masked(text, password="ab") == "password='***' in ***://u:***@host, about a table, crab"
    assert masked("a/b, a / b", password="/") == "a/b, a *** b"


def test_a_secret_that_is_no_proper_text_is_masked() -> None:
    assert masked("before p\udcffssword after", password="p\udcffssword") == "before *** after"


def test_an_empty_secret_masks_nothing() -> None:
    assert masked("text", password="") == masked("text", "", password=None) == "text"


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert masked("a secretive secret", password="secret", sslpassword="secretive") == "a *** ***"


class Rude:
    """Raises whatever it is asked."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), None), (None, Rude()), (Rude(), {}), ((), {1: SECRET}), ((), Rude())],
    ids=["no kwargs", "rude kwargs", "rude args", "odd name", "rude kwargs too"],
)
def test_it_masks_all_rather_than_raise(args: Any, kwargs: Any) -> None:
    assert mask(SECRET, args, kwargs) == "***"


class Secretive:
    """Is written into a connection string as psycopg2 does it: by str()."""

    def __str__(self) -> str:
        return SECRET


@pytest.mark.parametrize(
    ("password", "text"),
    [
        (31337424242, "31337424242"),
        (SECRET.encode(), SECRET),
        (SECRET.encode(), str(SECRET.encode())),
        (bytearray(b"word"), "word"),
        (Secretive(), SECRET),
    ],
)
def test_a_password_that_is_no_string_is_masked(password: Any, text: str) -> None:
    assert masked(f"before {text} after", password=password) == "before *** after"
    assert masked(f"before {text} after", sslpassword=password) == "before *** after"


@pytest.mark.parametrize(
    "dsn", [f"host=h password='{SECRET}'".encode(), f"postgresql://u:{quote(SECRET)}@h/d".encode()]
)
def test_a_connection_string_that_is_no_string_is_looked_through(dsn: bytes) -> None:
    assert masked(f"before {SECRET} after", dsn) == masked(f"before {SECRET} after", dsn=dsn) == "before *** after"


@pytest.mark.parametrize("password", [None, object()])
def test_a_password_that_is_none_masks_nothing(password: Any) -> None:
    assert masked("text 12345", password=password) == "text 12345"
    assert masked("text 12345", password) == "text 12345"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("shop", "shop"),
        ("postgresql://app:x@db/shop", "postgresql://***@db/shop"),
        ("postgresql+psycopg2://app:p@x@db/shop", "postgresql+psycopg2://***@db/shop"),
        ("postgresql://app:S3cr3t", "postgresql://app:***"),
        ("postgresql://db/shop?user=app&password=S3cr3t@x", "postgresql://db/shop?user=app&***"),
        ("host=db password='x y' user=app", "host=db *** user=app"),
    ],
)
def test_a_name_that_is_a_connection_string_is_shown_without_its_password(name: str, shown: str) -> None:
    assert mask_name(name, (), {}) == shown


def test_a_secret_of_many_backslashes_takes_no_time() -> None:
    masked("\\" * 3000, password="\\" * 1000 + "x" + "\\'" * 1000)


secrets = st.text(min_size=3, max_size=12).filter(lambda secret: "*" not in secret)


@given(secrets, st.text(), st.text())
def test_no_secret_is_left_in_any_text(secret: str, before: str, after: str) -> None:
    assert secret not in masked(before + secret + after, password=secret)


@given(st.text(), st.text(), st.sampled_from(["", "postgresql://", "postgresql://app:", "password="]))
def test_it_never_raises_and_never_shows_a_string_that_cannot_be_parsed(dsn: str, text: str, start: str) -> None:
    shown = masked(text + start + dsn, start + dsn)
    try:
        psycopg2.extensions.parse_dsn(start + dsn)
    except (psycopg2.Error, ValueError, UnicodeError):
        if len(start + dsn) >= 3 and "*" not in start + dsn:
            assert start + dsn not in shown
