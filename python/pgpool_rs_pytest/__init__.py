"""A pytest plugin: a pool over fakes, and tests that fail if they leave a connection lent.

pytest loads it by itself; `-p no:pgpool_rs` keeps it away. It imports nothing but pytest until a test needs it.

The plugin looks for loans after the teardown of the test's own fixtures, which may return what the test has borrowed,
and close pools: what is lent when its pool is closed has been left lent. pytest calls what is found so late an error of
the teardown. To have it called a failure of the test, the plugin holds the test's reports back until its teardown is
done. Where another plugin runs the tests, one that repeats them for instance, it stays an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _pytest import runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs import ThreadedConnectionPool
    from pgpool_rs.testing import FakeServer
    from pgpool_rs.testing._leaks import LeakCheck

_OPTION = "pgpool_no_leaks"
_MARKER = "pgpool"

_leak_check: pytest.StashKey[LeakCheck] = pytest.StashKey()
_left: pytest.StashKey[str] = pytest.StashKey()


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pgpool_server() -> Iterator[FakeServer]:
    """Give a fake server in the place of psycopg2.connect, until the end of the test."""
    from pgpool_rs.testing import FakeServer

    with FakeServer().installed() as server:
        yield server


@pytest.fixture
def pgpool_pool(request: pytest.FixtureRequest, pgpool_server: FakeServer) -> Iterator[ThreadedConnectionPool]:
    """Give a ThreadedConnectionPool over `pgpool_server`; it is closed at the end of the test.

    It is made with the arguments of the nearest marker, `@pytest.mark.pgpool(minconn, maxconn, **options)`; without, or
    as far as nothing is said, with minconn=1 and maxconn=4.
    """
    marker = request.node.get_closest_marker(_MARKER)
    pool = _make(*marker.args, **marker.kwargs) if marker else _make()
    yield pool
    # The end of the pool must not fail, nor wait at a gate.
    pgpool_server.calm()
    if not pool.closed:
        pool.closeall()


def _make(minconn: int = 1, maxconn: int = 4, *args: Any, **options: Any) -> ThreadedConnectionPool:
    from pgpool_rs import ThreadedConnectionPool

    return ThreadedConnectionPool(minconn, maxconn, *args, **options)


@pytest.fixture
def pgpool_no_leaks(request: pytest.FixtureRequest) -> None:
    """Fail the test if it leaves a connection lent, by any pool of pgpool_rs."""
    _begin(request.node)


# --- hooks -----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to pytest.ini, pyproject.toml and so on."""
    parser.addini(
        _OPTION, "let every test fail that leaves a connection of a pgpool_rs pool lent", "bool", default=False
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{_MARKER}(minconn=1, maxconn=4, **options): what pgpool_pool is made with.")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Any:
    """Begin the leak check before the first fixture is made."""
    error = None
    try:
        if _is_checked(item):
            _begin(item)
    except ImportError as failed:
        error = failed
    outcome = yield
    # Other plugins' teardowns count on their own set-ups, which have run by now.
    if error is not None:
        outcome.force_exception(error)


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a fixture that outlives the test borrow something for longer."""
    leak_check = request.session.stash.get(_leak_check, None)
    if leak_check is None or fixturedef.scope == "function":
        yield
    else:
        with leak_check.excepting():
            yield


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Any:
    """Ask what is left when all else is done."""
    outcome = yield
    text = _end(item)
    if not text:
        return
    if outcome.excinfo is None:
        item.stash[_left] = text
        outcome.force_exception(pytest.fail.Exception(text, pytrace=False))
    else:
        item.add_report_section("teardown", "pgpool_rs", text)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Tell the session of a failure with which it ends: it then tears down wider fixtures with this test.

    pytest itself does so when it logs the report, which here waits for the teardown.
    """
    outcome = yield
    report, most = outcome.get_result(), item.config.getvalue("maxfail")
    fails = report.failed and report.when != "teardown" and not hasattr(report, "wasxfail")
    if _is_checked(item) and fails and most and item.session.testsfailed + 1 >= most:
        item.session.shouldfail = f"stopping after {most} failures"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that is checked for leaks, and report on it when its teardown is done."""
    if not _is_checked(item) or _is_run_by_others(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runner.runtestprotocol(item, log=False, nextitem=nextitem)
    if _left in item.stash:
        _blame_the_test(reports, item.stash[_left])
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


# --- steps -----------------------------------------------------------------------------------------------------------


def _is_checked(item: pytest.Item) -> bool:
    return bool(item.config.getini(_OPTION)) or "pgpool_no_leaks" in getattr(item, "fixturenames", ())


def _is_run_by_others(item: pytest.Item) -> bool:
    runs = item.ihook.pytest_runtest_protocol.get_hookimpls()
    wraps = ("hookwrapper", "wrapper")
    own = (runner.pytest_runtest_protocol, pytest_runtest_protocol)
    return any(run.function not in own and not any(getattr(run, wrap, False) for wrap in wraps) for run in runs)


def _begin(item: pytest.Item) -> None:
    if _leak_check not in item.stash:
        from pgpool_rs.testing._leaks import LeakCheck

        item.stash[_leak_check] = item.session.stash[_leak_check] = LeakCheck()


def _end(item: pytest.Item) -> str:
    if _leak_check not in item.stash:
        return ""
    leak_check = item.stash[_leak_check]
    del item.stash[_leak_check], item.session.stash[_leak_check]
    return leak_check.end()


def _blame_the_test(reports: list[pytest.TestReport], text: str) -> None:
    """Move what was found in the teardown to the test itself, if that has passed, or failed as it was or wasn't to."""
    *_, call, teardown = reports
    is_marked = hasattr(call, "wasxfail")
    if call.when != "call" or (call.skipped and not is_marked) or (call.passed and is_marked):
        return
    if call.passed:
        call.outcome, call.longrepr = "failed", teardown.longrepr
    else:
        call.sections.append(("connections still lent", text))
    teardown.outcome, teardown.longrepr = "passed", None
    vars(teardown).pop("wasxfail", None)
