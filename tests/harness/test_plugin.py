"""The pytest plugin, in runs of pytest of its own: what its fixtures give, and which tests are failed for a leak."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest

WORDS = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")


class Run:
    """What came of a run: its output, and of each test what it was called."""

    def __init__(self, folder: Path, *arguments: str, **files: str) -> None:
        for name, text in files.items():
            (folder / f"{name}.{'ini' if name == 'pytest' else 'py'}").write_text(dedent(text))
        command = [sys.executable, "-m", "pytest", "-p", "pgpool_rs_pytest", "-p", "no:cacheprovider", "-rA"]
        command += ["--strict-markers", "-W", "error", "--color=no", *arguments]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        self.output = ran.stdout + ran.stderr
        summary = self.output.partition("short test summary info")[2]
        self.outcomes: dict[str, str] = {}
        for word, test in re.findall(rf"^({'|'.join(WORDS)}) \S+::(\w+)", summary, re.MULTILINE):
            self.outcomes[test] = f"{self.outcomes[test]} {word}" if test in self.outcomes else word
        skipped = re.findall(r"^SKIPPED \[(\d+)\]", summary, re.MULTILINE)
        self.skipped = sum(map(int, skipped))

    def of(self, word: str) -> set[str]:
        """Name the tests that were called so and nothing else."""
        return {test.removeprefix("test_") for test, called in self.outcomes.items() if called == word}

    def section(self, test: str) -> str:
        """Give what is shown of one test."""
        found = re.search(rf"^_+ [\w ]*\b{test} _+$\n(.*?)^(?:__|==)", self.output, re.MULTILINE | re.DOTALL)
        assert found, self.output
        return found[1]


CONFTEST = """
    import pytest
    from pgpool_rs import SimpleConnectionPool, ThreadedConnectionPool
    from pgpool_rs.testing import FakeServer

    @pytest.fixture(scope="session")
    def shared():
        pool = SimpleConnectionPool(0, 9, connect=FakeServer().connect, name="shared")
        yield pool
        pool.closeall()

    @pytest.fixture(scope="module")
    def lent_for_the_module(shared):
        connection = shared.getconn("module")
        yield connection
        shared.putconn(connection, "module")

    @pytest.fixture
    def lent_for_the_test(shared):
        connection = shared.getconn()
        yield connection
        shared.putconn(connection)

    @pytest.fixture
    def borrow(shared):
        lent = []

        def borrow():
            lent.append(shared.getconn())

        yield borrow
        for connection in lent:
            shared.putconn(connection)

    @pytest.fixture
    def closed_at_the_end():
        pool = ThreadedConnectionPool(0, 9, connect=FakeServer().connect, name="own")
        yield pool
        pool.closeall()

    @pytest.fixture
    def leaky(shared):
        shared.getconn()

    @pytest.fixture
    def breaks():
        yield
        raise LookupError("it breaks")
    """


def test_the_pool_is_made_as_the_marker_says_and_closed_at_the_end(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        test_pool="""
            import psycopg2
            import pytest
            from pgpool_rs import PoolTimeout, ThreadedConnectionPool

            connect = psycopg2.connect
            pools = []

            class Killed(BaseException):
                pass

            def test_default(pgpool_pool, pgpool_server):
                assert type(pgpool_pool) is ThreadedConnectionPool
                assert (pgpool_pool.minconn, pgpool_pool.maxconn, pgpool_server.open) == (1, 4, 1)
                assert pgpool_pool.getconn().server is pgpool_server
                pools.append((pgpool_pool, pgpool_server))
                pgpool_server.fail("close", Killed())

            def test_after_default():
                ((pool, server),) = pools
                assert (pool.closed, server.open) == (True, 0)
                assert psycopg2.connect is connect

            @pytest.mark.pgpool(2, 3, timeout=0.001, name="marked")
            def test_marked(pgpool_server, pgpool_pool):
                assert (pgpool_pool.minconn, pgpool_pool.maxconn, pgpool_pool.name) == (2, 3, "marked")
                lent = [pgpool_pool.getconn() for _ in range(3)]
                with pytest.raises(PoolTimeout):
                    pgpool_pool.getconn()

            @pytest.mark.pgpool(minconn=0)
            class TestClass:
                def test_of_the_class(self, pgpool_pool):
                    assert (pgpool_pool.minconn, pgpool_pool.maxconn) == (0, 4)

                @pytest.mark.pgpool(maxconn=1)
                def test_nearest(self, pgpool_pool):
                    assert (pgpool_pool.minconn, pgpool_pool.maxconn) == (1, 1)

            def test_closed_by_the_test(pgpool_pool):
                pgpool_pool.closeall()

            @pytest.mark.pgpool(3, 1)
            def test_wrong(pgpool_pool):
                pass

            def test_server(pgpool_server):
                assert psycopg2.connect().server is pgpool_server
            """,
    )
    assert run.of("ERROR") == {"wrong"}, run.output
    assert "a pool needs 0 <= minconn <= maxconn, not minconn=3 and maxconn=1" in run.output
    assert run.of("PASSED") == {
        "default",
        "after_default",
        "marked",
        "of_the_class",
        "nearest",
        "closed_by_the_test",
        "server",
    }


LEAKS = """
    import threading
    import pytest
    from pgpool_rs import ThreadedConnectionPool
    from pgpool_rs.testing import FakeServer, MortalFakeConnection

    pytestmark = pytest.mark.usefixtures("pgpool_no_leaks")

    def test_good_nothing():
        pass

    def test_good_block(pgpool_pool):
        with pgpool_pool.connection():
            pass

    def test_good_lent_for_the_module(lent_for_the_module):
        pass

    def test_good_again(lent_for_the_module):
        pass

    def test_good_lent_for_the_test(lent_for_the_test):
        pass

    def test_good_returned_in_a_teardown(borrow):
        borrow()
        borrow()

    def test_good_reclaimed():
        pool = ThreadedConnectionPool(0, 1, connect=FakeServer(MortalFakeConnection, keep=False).connect, reclaim=True)
        connection = pool.getconn()
        connection.itself = connection

    def test_bad_shared(shared):
        connection = shared.getconn("key")

    def test_bad_beside_what_is_lent_for_longer(shared, lent_for_the_module):
        shared.getconn()

    @pytest.mark.pgpool(leak_after=3600)
    def test_bad_with_a_stack(pgpool_pool):
        pgpool_pool.getconn()  # here

    def test_bad_forgotten_pool():
        ThreadedConnectionPool(0, 1, connect=FakeServer().connect).getconn()

    def test_bad_lent_when_it_was_closed(closed_at_the_end):
        closed_at_the_end.getconn()
        closed_at_the_end.getconn()

    def test_bad_in_a_thread(shared):
        thread = threading.Thread(target=shared.getconn, name="the borrower")
        thread.start()
        thread.join()

    def test_bad_fixture(leaky):
        pass

    class Own(ThreadedConnectionPool):
        def __eq__(self, other):
            return True
        __hash__ = None
        def loans(self):
            return []
        def getconn(self, key=None):
            return super().getconn(key)

    def test_bad_subclass(pgpool_server):
        Own(1, 1).getconn()

    def test_fails(shared):
        shared.getconn()
        assert shared is None, "it fails by itself"

    @pytest.mark.xfail
    def test_expected_to_fail(shared):
        shared.getconn()
        assert False

    def test_skipped(shared):
        pytest.skip("before anything is lent")

    def test_teardown_fails(shared, breaks):
        shared.getconn()

    def test_setup_fails(closed_at_the_end, no_such_fixture):
        pass

    def test_relent(shared, lent_for_the_module, pgpool_server):
        shared.putconn(lent_for_the_module, "module")
        pgpool_server.clock.advance(10)
        shared.getconn("module")
    """


@pytest.fixture(scope="module")
def leaks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Give the run of all sorts of tests, good and bad."""
    return Run(tmp_path_factory.mktemp("leaks"), conftest=CONFTEST, test_leaks=LEAKS)


def test_what_leaves_nothing_lent_passes(leaks: Run) -> None:
    assert {test for test in leaks.of("PASSED") if not test.startswith("good")} == set(), leaks.output
    assert len(leaks.of("PASSED")) == 7
    assert leaks.skipped == 1


def test_what_leaves_something_lent_is_failed_once_and_is_no_error(leaks: Run) -> None:
    bad = {test for test in leaks.of("FAILED") if test.startswith("bad")}
    assert len(bad) == 8, leaks.output
    assert leaks.of("FAILED") - bad == {"fails"}
    assert "9 failed" in leaks.output.splitlines()[-1]


def test_a_failure_names_pool_age_key_and_thread(leaks: Run) -> None:
    lines = leaks.section("test_bad_shared").strip().splitlines()
    assert lines[0] == "1 connection is still lent"
    assert re.fullmatch(r"shared: lent for 0\.\d s under key 'key', borrowed by thread \d+ \(MainThread\)", lines[1])
    assert lines[2:] == ["A pool that is made with leak_after=... also knows where each was borrowed."]
    assert "\nFAILED test_leaks.py::test_bad_shared - Failed: 1 connection is still lent\n" in leaks.output
    assert "(gone)" in leaks.section("test_bad_in_a_thread")


def test_a_failure_shows_the_stack_where_it_was_recorded(leaks: Run) -> None:
    text = leaks.section("test_bad_with_a_stack")
    assert text.rstrip().endswith("in test_bad_with_a_stack\n    pgpool_pool.getconn()  # here")


def test_what_is_lent_when_its_pool_is_closed_has_been_left(leaks: Run) -> None:
    text = leaks.section("test_bad_lent_when_it_was_closed")
    assert "2 connections are still lent" in text
    assert text.count("own: lent for") == 2


def test_what_others_have_lent_is_not_named(leaks: Run) -> None:
    assert "1 connection is still lent" in leaks.section("test_bad_beside_what_is_lent_for_longer")


def test_a_test_that_fails_by_itself_says_so_and_then_what_is_lent(leaks: Run) -> None:
    text = leaks.section("test_fails")
    assert "it fails by itself" in text
    assert "- connections still lent -" in text
    assert "shared: lent for" in text
    assert leaks.of("XFAIL") == {"expected_to_fail"}


def test_a_teardown_that_fails_by_itself_stays_an_error(leaks: Run) -> None:
    assert leaks.outcomes["test_teardown_fails"] == "PASSED ERROR"
    text = leaks.section("test_teardown_fails")
    assert "it breaks" in text
    assert "shared: lent for" in text
    assert leaks.outcomes["test_setup_fails"] == "ERROR"


def test_a_loan_that_was_returned_and_made_again_is_the_tests(leaks: Run) -> None:
    """The module's fixture then fails, since the connection it returns is another's."""
    assert "shared: lent for 0." in leaks.section("test_relent")


def test_the_option_watches_every_test(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        conftest=CONFTEST,
        pytest="""
            [pytest]
            pgpool_no_leaks = true
            """,
        test_option="""
            import unittest

            from pgpool_rs import SimpleConnectionPool
            from pgpool_rs.testing import FakeServer

            pool = SimpleConnectionPool(0, 9, connect=FakeServer().connect)

            def test_good():
                pool.putconn(pool.getconn())

            def test_bad():
                pool.getconn()

            def test_good_after_bad():
                pass

            class Test(unittest.TestCase):
                def test_bad_case(self):
                    pool.getconn()

                def test_good_case(self):
                    self.addCleanup(pool.putconn, pool.getconn())
            """,
    )
    assert run.of("FAILED") == {"bad", "bad_case"}, run.output
    assert run.of("PASSED") == {"good", "good_after_bad", "good_case"}


AUTOUSE = """
    import pytest

    @pytest.fixture(autouse=True)
    def no_leaks(pgpool_no_leaks):
        pass
    """


def test_an_autouse_fixture_watches_every_test_and_the_first_failure_stops_the_run(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        "-x",
        conftest=AUTOUSE,
        test_autouse="""
            def test_good(pgpool_pool):
                with pgpool_pool.connection():
                    pass

            def test_bad(pgpool_pool):
                pgpool_pool.getconn()

            def test_never():
                pass
            """,
    )
    assert run.outcomes == {"test_good": "PASSED", "test_bad": "FAILED"}, run.output


def test_a_failure_that_stops_the_run_is_told_though_the_teardown_of_its_module_fails(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        "-x",
        test_stopped="""
            import pytest

            @pytest.fixture(scope="module")
            def broken():
                yield
                raise LookupError("it breaks")

            def test_first(broken, pgpool_no_leaks):
                assert "this" == "that"

            def test_second(broken, pgpool_no_leaks):
                pass
        """,
    )
    assert "'this' == 'that'" in run.output
    assert "1 failed, 1 error" in run.output


def test_where_the_fixture_is_asked_for_late_or_others_run_the_tests_a_leak_is_an_error(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        conftest="""
            from _pytest.runner import runtestprotocol

            def pytest_runtest_protocol(item, nextitem):
                if "others" in item.name:
                    runtestprotocol(item, nextitem=nextitem)
                    return True
            """,
        test_late="""
            import pytest

            @pytest.mark.usefixtures("pgpool_no_leaks")
            def test_of_others(pgpool_pool):
                pgpool_pool.getconn()

            def test_late(request, pgpool_pool):
                request.getfixturevalue("pgpool_no_leaks")
                pgpool_pool.getconn()
            """,
    )
    assert run.outcomes == {"test_of_others": "PASSED ERROR", "test_late": "PASSED ERROR"}, run.output


def test_the_plugin_imports_pytest_alone_until_a_fixture_is_used(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        test_order="""
            import sys

            def imported():
                return {"pgpool_rs", "psycopg2", "hypothesis"} & set(sys.modules)

            def test_first():
                assert imported() == set()

            def test_second(pgpool_no_leaks):
                assert imported() == {"pgpool_rs", "psycopg2"}

            def test_third(pgpool_pool):
                assert imported() == {"pgpool_rs", "psycopg2"}
            """,
    )
    assert run.of("PASSED") == {"first", "second", "third"}, run.output


def test_without_psycopg2_only_what_uses_the_plugin_fails_and_says_what_to_install(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        psycopg2='raise ModuleNotFoundError("No module named \'psycopg2\'", name="psycopg2")',
        test_psycopg2="""
            def test_uses_nothing():
                pass

            def test_uses_a_pool(pgpool_pool):
                pass

            def test_uses_the_leak_check(pgpool_no_leaks):
                pass

            def test_imports_the_harness():
                import pgpool_rs.testing
            """,
    )
    assert run.of("PASSED") == {"uses_nothing"}, run.output
    assert run.output.count("pgpool_rs needs psycopg2: install psycopg2-binary") >= 3, run.output
    assert "KeyError" not in run.output
    assert run.of("ERROR") == {"uses_a_pool", "uses_the_leak_check"}, run.output


def test_the_plugin_costs_a_session_that_uses_nothing_less_than_a_fiftieth_of_pytests_own_import() -> None:
    program = """
import time
begun = time.process_time(); import pytest
loaded = time.process_time(); import pgpool_rs_pytest
print((time.process_time() - loaded) / (loaded - begun))
"""
    shares = [float(subprocess.check_output([sys.executable, "-c", program], timeout=100)) for _ in range(3)]
    assert min(shares) < 1 / 50, shares


def test_pytest_finds_the_plugin_by_itself() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="pytest11")}
    assert found["pgpool_rs"] == "pgpool_rs_pytest"


def test_no_pool_is_kept_alive_before_and_after_a_test_that_is_checked_for_leaks(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        test_alive="""
            import weakref
            from pgpool_rs import ThreadedConnectionPool
            from pgpool_rs.testing import FakeServer

            made = []

            def make():
                made.append(weakref.ref(ThreadedConnectionPool(0, 1, connect=FakeServer().connect)))
                return made[-1]() is not None

            def test_before():
                assert not make()

            def test_checked(pgpool_no_leaks):
                assert make()

            def test_after():
                assert not make()
                assert [pool() for pool in made] == [None] * 3
            """,
    )
    assert run.of("PASSED") == {"before", "checked", "after"}, run.output


def test_the_plugin_says_what_it_offers(tmp_path: Path) -> None:
    helped = Run(tmp_path, "--markers").output
    assert "@pytest.mark.pgpool(minconn=1, maxconn=4, **options): what pgpool_pool is made with." in helped
    shown = Run(tmp_path, "--fixtures").output
    for fixture in ("pgpool_server", "pgpool_pool", "pgpool_no_leaks"):
        assert f"\n{fixture} -- " in shown
