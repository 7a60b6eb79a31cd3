"""The options: their defaults, the form in which Rust reads them, and what each refuses, with which words."""

from __future__ import annotations

import dataclasses
import decimal
import fractions
import functools
import itertools
import math
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_rs import Listener
from pgpool_rs._core import check_socket
from pgpool_rs._options import Options
from pgpool_rs.health import check_query, discard_all
from tests.lib.limits import PretendedLimit
from tests.lib.programs import run_program

PAGE = Path(__file__).parents[2] / "docs" / "options.md"

SECONDS = ["timeout", "check_after", "max_idle", "max_lifetime", "leak_after"]
COUNTS = ["max_waiting", "open_workers", "reserve"]
CALLABLES = ["check", "configure", "reset", "connect"]
LISTENERS = ["listener"]
LIMITS = ["limit"]
FLAGS = ["background", "reclaim", "close_returns", "open"]
WORDS = ["grow", "order"]
PAUSES = ["reconnect_backoff"]

INF = math.inf
NAN = math.nan


def made(option: str, value: object) -> Any:
    """Give what becomes of a value."""
    return getattr(Options.checked(**{option: value}), option)


def nothing(*_: object) -> None:
    """Stand for any callable."""


class Ear(Listener):
    """Hears nothing but this."""

    def closed(self, _pool: object, _reason: str, /) -> None:
        """Do nothing."""


def test_the_defaults_are_those_of_psycopg2_pool_but_for_the_check() -> None:
    options = dataclasses.asdict(Options.checked(name="pool"))
    assert options == {
        "name": "pool",
        "timeout": 0.0,
        "max_waiting": 0,
        "check": check_socket,
        "check_after": 0.5,
        "max_idle": 0.0,
        "max_lifetime": INF,
        "configure": None,
        "reset": None,
        "connect": None,
        "open_workers": 1,
        "grow": "caller",
        "reconnect_backoff": None,
        "order": "lifo",
        "reserve": 0,
        "background": False,
        "leak_after": INF,
        "reclaim": False,
        "close_returns": False,
        "open": True,
        "listener": None,
        "limit": None,
    }


def test_nothing_can_be_changed_afterwards() -> None:
    options: Any = Options.checked()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.timeout = 1


@pytest.mark.parametrize("option", SECONDS)
@pytest.mark.parametrize(
    "value", [1, 0.25, INF, 1e300, decimal.Decimal("1.5"), fractions.Fraction(1, 2), 10**400, 5e-324]
)
def test_seconds_are_any_number(option: str, value: Any) -> None:
    result = made(option, value)
    assert type(result) is float
    assert result == (INF if value == 10**400 else value)


@pytest.mark.parametrize("option", ["timeout", "max_idle", "max_lifetime", "leak_after"])
def test_none_seconds_are_for_ever(option: str) -> None:
    assert made(option, None) == INF


@pytest.mark.parametrize("option", ["timeout", "check_after", "max_idle"])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_no_seconds_at_all_are_allowed_where_they_mean_something(option: str, zero: float) -> None:
    assert made(option, zero) == 0


SECONDS_REFUSED = {
    "timeout": ("number of seconds or None", "0 or more seconds, or None to wait for ever"),
    "check_after": ("number of seconds", "0 or more seconds"),
    "max_idle": ("number of seconds or None", "0 or more seconds, or None to keep idle connections for ever"),
    "max_lifetime": ("number of seconds or None", "more than 0 seconds, or None for no limit"),
    "leak_after": ("number of seconds or None", "more than 0 seconds, or None to watch no loan"),
}


@pytest.mark.parametrize("option", SECONDS)
@pytest.mark.parametrize("value", ["5", b"5", [], object, 1j, True, False, (1,)])
def test_seconds_that_are_no_number_are_a_type_error(option: str, value: Any) -> None:
    refused(TypeError, f"{option} must be a {SECONDS_REFUSED[option][0]}, not {value!r}", **{option: value})


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (SECONDS, [-1, -0.001, NAN, -INF, -(10**400), decimal.Decimal("NaN")]),
        (["max_lifetime", "leak_after"], [0, 0.0, -0.0]),
    ],
    ids=["below zero or NaN", "zero, where it means nothing"],
)
def test_seconds_out_of_range_are_a_value_error(options: list[str], values: list[Any]) -> None:
    for option, value in itertools.product(options, values):
        refused(ValueError, f"{option} must be {SECONDS_REFUSED[option][1]}, not {value!r}", **{option: value})


def test_there_is_no_never_for_check_after() -> None:
    refused(TypeError, "check_after must be a number of seconds, not None", check_after=None)


class Nine:
    """Is 9 where an integer is needed."""

    def __index__(self) -> int:
        return 9

    def __repr__(self) -> str:
        return "Nine()"


@pytest.mark.parametrize("option", COUNTS)
@pytest.mark.parametrize(("value", "count"), [(3, 3), (Nine(), 9), (10**30, sys.maxsize)])
def test_counts_are_whatever_is_an_integer_and_one_too_large_is_the_largest(
    option: str, value: Any, count: int
) -> None:
    assert made(option, value) == count
    assert type(made(option, value)) is int


@pytest.mark.parametrize("option", COUNTS)
@pytest.mark.parametrize("value", [1.0, "1", None, True, False, [], decimal.Decimal(1)])
def test_a_count_that_is_no_integer_is_a_type_error(option: str, value: Any) -> None:
    refused(TypeError, f"{option} must be a whole number, not {value!r}", **{option: value})


def test_a_count_out_of_range_is_a_value_error() -> None:
    refused(ValueError, "max_waiting must be 0 (no bound) or more, not -1", max_waiting=-1)
    refused(ValueError, "open_workers must be 1 or more, not 0", open_workers=0)
    refused(ValueError, "open_workers must be 1 or more, not -7", open_workers=-7)


@pytest.mark.parametrize("option", CALLABLES)
@pytest.mark.parametrize("value", [None, nothing, Nine, functools.partial(nothing, 1), "".join])
def test_a_callable_or_none_is_taken_as_it_is(option: str, value: Any) -> None:
    assert made(option, value) is value


@pytest.mark.parametrize("option", ["check", "configure"])
@pytest.mark.parametrize("value", ["SELECT 1", "discard", 5, True, Nine(), []])
def test_what_cannot_be_called_is_a_type_error(option: str, value: Any) -> None:
    refused(TypeError, f"{option} must be a callable or None, not {value!r}", **{option: value})


def test_what_is_given_for_connect_is_not_repeated() -> None:
    refused(TypeError, "connect must be a callable or None, not a str", connect="postgresql://app:hidden@db/shop")
    refused(TypeError, "connect must be a callable or None, not a dict", connect={"password": "hidden"})


@pytest.mark.parametrize("option", [*SECONDS, *COUNTS, *CALLABLES, *FLAGS, *WORDS])
@pytest.mark.parametrize(
    "value",
    [
        "postgresql://app:hidden@db/shop",
        b"postgresql://app:hidden@db/shop",
        "host=db password=hidden",
        {"password": "hidden"},
        ["postgresql://app:hidden@db/shop"],
        "hidden" * 10,
    ],
)
def test_what_may_be_a_connection_string_in_the_wrong_place_is_not_repeated(option: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        Options.checked(**{option: value})
    assert option in str(raised.value)
    assert type(value).__name__ in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_value_whose_repr_fails_is_named_by_its_type() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    refused(TypeError, "max_idle must be a number of seconds or None, not a Rude", max_idle=Rude())


def test_the_repr_shows_no_argument_of_a_callable() -> None:
    callables: dict[str, Any] = {option: functools.partial(dict, password="hidden") for option in CALLABLES}
    options = Options.checked(**callables)
    assert options.connect is callables["connect"]
    assert "hidden" not in repr(options)
    assert "max_idle=0" in repr(options)


def test_reset_may_be_a_word() -> None:
    assert made("reset", "discard") is discard_all
    refused(ValueError, "reset must be a callable, \"discard\" or None, not 'discrad'", reset="discrad")
    refused(TypeError, 'reset must be a callable, "discard" or None, not 5', reset=5)
    refused(TypeError, "reset must be a callable, \"discard\" or None, not ['discard']", reset=["discard"])


@pytest.mark.parametrize("option", FLAGS)
def test_a_flag_is_a_bool_and_nothing_else(option: str) -> None:
    assert made(option, True) is True
    assert made(option, False) is False
    others: list[object] = [1, 0, None, "yes", [], 1.0]
    for value in others:
        refused(TypeError, f"{option} must be True or False, not {value!r}", **{option: value})


@pytest.mark.parametrize("value", [(1, 2), [1, 2.0], (0.5, decimal.Decimal("0.5"))])
def test_a_backoff_is_the_shortest_and_the_longest_pause(value: Any) -> None:
    made_of = made("reconnect_backoff", value)
    assert made_of == tuple(map(float, value))
    assert [type(pause) for pause in made_of] == [float, float]


@pytest.mark.parametrize("value", [1, "12", (1,), (1, 2, 3), (1, None), (True, 2), {1: 2}, ("1", "2")])
def test_a_backoff_that_is_no_pair_of_numbers_is_a_type_error(value: Any) -> None:
    text = f"reconnect_backoff must be two numbers of seconds (shortest, longest) or None, not {value!r}"
    refused(TypeError, text, reconnect_backoff=value)


@pytest.mark.parametrize("value", [(0, 1), (2, 1), (-1, 1), (1, INF), (NAN, 1), (1, NAN)])
def test_a_backoff_out_of_range_is_a_value_error(value: Any) -> None:
    text = f"reconnect_backoff must be (shortest, longest) with 0 < shortest <= longest, not {value!r}"
    refused(ValueError, text, reconnect_backoff=value)


def test_order_is_one_of_two_words() -> None:
    assert [made("order", word) for word in ("lifo", "fifo")] == ["lifo", "fifo"]
    refused(ValueError, 'order must be "lifo" or "fifo", not \'random\'', order="random")
    refused(TypeError, 'order must be "lifo" or "fifo", not None', order=None)


def test_grow_is_one_of_two_words() -> None:
    assert [made("grow", word) for word in ("caller", "workers")] == ["caller", "workers"]
    refused(ValueError, 'grow must be "caller" or "workers", not \'worker\'', grow="worker")
    refused(TypeError, 'grow must be "caller" or "workers", not True', grow=True)


def test_a_name_is_a_string_that_is_not_empty() -> None:
    assert made("name", "web") == "web"
    refused(TypeError, "name must be a string, not 5", name=5)
    refused(TypeError, "name must be a string, not b'web'", name=b"web")
    refused(ValueError, "name must not be empty, not ''", name="")


def test_pools_without_a_name_are_numbered_and_neither_a_named_nor_a_refused_one_takes_a_number() -> None:
    first = Options.checked().name
    Options.checked(name="web")
    with pytest.raises(ValueError, match="timeout"):
        Options.checked(timeout=-1)
    with pytest.raises(TypeError, match="reclaim"):
        Options.checked(reclaim=None)
    assert Options.checked().name == f"pool-{int(first.removeprefix('pool-')) + 1}"


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="max_age"):
        Options.checked(max_age=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "given",
    [
        {"max_idle": 1},
        {"max_idle": None},
        {"max_lifetime": 1},
        {"leak_after": 1},
        {"background": True},
        {"check": check_query},
        {"check": functools.partial(check_query, timeout=1)},
    ],
)
def test_these_options_need_housekeeping(given: dict[str, Any]) -> None:
    assert Options.checked(**given).has_housekeeper is True


async def coroutine(*_: object) -> None:
    """Would have to be awaited."""


def generator(*_: object) -> Iterator[None]:
    """Would have to be iterated."""
    yield


async def async_generator(*_: object) -> AsyncIterator[None]:
    """Would have to be iterated in an event loop."""
    yield


class Awaitable:
    """Has all of it in methods."""

    __call__ = method = coroutine


@pytest.mark.parametrize("option", [*CALLABLES, "listener.closed"])
@pytest.mark.parametrize(
    "value",
    [coroutine, generator, async_generator, functools.partial(coroutine, 1), Awaitable(), Awaitable().method],
    ids=["coroutine", "generator", "async generator", "partial", "object", "method"],
)
def test_a_function_whose_call_runs_nothing_is_refused(option: str, value: Any) -> None:
    name, _, event = option.partition(".")
    text = f"{option} must be a plain function, not an async one or a generator: its call runs nothing"
    refused(TypeError, text, **{name: SimpleNamespace(**{event: value}) if event else value})


class Unbound:
    """A proxy that has nothing behind it yet, as Flask's outside of a context."""

    def __call__(self, *_: object) -> None:
        raise AssertionError("it was called")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no {name} outside of a context")


@pytest.mark.parametrize("option", CALLABLES)
def test_a_proxy_is_asked_for_nothing_before_it_is_called(option: str) -> None:
    assert type(made(option, Unbound())) is Unbound


def test_a_class_whose_instances_are_async_is_none() -> None:
    assert made("connect", Awaitable) is Awaitable


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"check": None},
        {"check": check_socket},
        {"timeout": None, "max_waiting": 5, "check_after": 0, "reclaim": True, "open_workers": 4, "name": "web"},
        {"grow": "workers"},
        {"reconnect_backoff": (1, 2)},
        {"order": "fifo"},
        {"reserve": 3},
        {
            "configure": nothing,
            "reset": "discard",
            "connect": nothing,
            "close_returns": True,
            "open": False,
            "listener": Ear(),
            "limit": PretendedLimit(1),
        },
        {"max_idle": 0, "max_lifetime": None, "leak_after": None, "background": False},
        {"max_lifetime": INF, "leak_after": INF},
    ],
)
def test_these_options_need_no_housekeeping(given: dict[str, Any]) -> None:
    assert Options.checked(**given).has_housekeeper is False


def test_the_programs_on_the_page_of_options_run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    run_program(f"""{"".join(blocks)}
for options in ({{}}, {{"configure": configure}}):
    with ThreadedConnectionPool(1, 1, os.environ["DATABASE_URL"], **options) as other:
        with other.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW search_path")
            assert (cursor.fetchone() == ("shop",)) == bool(options)
with pool.connection() as connection:
    connection.cursor().execute("SELECT 1")
pool.closeall()
""")


def refused(error: type[Exception], text: str, **given: object) -> None:
    """Assert that these options are refused with exactly these words."""
    with pytest.raises(error) as raised:
        Options.checked(**given)
    assert str(raised.value) == text
