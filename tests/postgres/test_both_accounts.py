"""A connection is clean only if libpq and psycopg2 both say so, on a real server.

libpq is told by the server whether there is a transaction; psycopg2 has an account of its own, `connection.status`, and
knows nothing of what is said in SQL. Whatever comes back with the two at odds must do the next borrower no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from psycopg2.extensions import STATUS_BEGIN, STATUS_PREPARED, STATUS_READY

from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs import check_query
from pgpool_rs.testing import PATIENCE
from tests.lib.doubles import Proxy
from tests.lib.log import listening
from tests.lib.pools import closes
from tests.lib.postgres import opened
from tests.lib.statements import execute
from tests.lib.waits import counts, wait_until

IDLE = psycopg2.extensions.TRANSACTION_STATUS_IDLE
ACTIVE = psycopg2.extensions.TRANSACTION_STATUS_ACTIVE
INTRANS = psycopg2.extensions.TRANSACTION_STATUS_INTRANS
INERROR = psycopg2.extensions.TRANSACTION_STATUS_INERROR

PREPARED = "1_Z3RyaWQ=_YnF1YWw="


class Table:
    """The table `kept`, and what is prepared, at a server with this address."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        execute(self._connection, "create table kept (n int)")

    @property
    def rows(self) -> int:
        """Count what has been committed."""
        return int(execute(self._connection, "select count(*) from kept"))

    @property
    def prepared(self) -> int:
        """Count the transactions that are prepared."""
        return int(execute(self._connection, "select count(*) from pg_prepared_xacts"))

    def clear(self) -> None:
        """End what is prepared, and empty the table."""
        if self.prepared:
            execute(self._connection, f"rollback prepared '{PREPARED}'")
        execute(self._connection, "delete from kept")


@pytest.fixture(scope="module")
def _table() -> Iterator[Table]:
    # It prepares transactions, and lets itself be replicated.
    with ThrowawayPostgres(settings={"max_prepared_transactions": "10", "wal_level": "logical"}) as server:
        yield Table(server.dsn)


@pytest.fixture
def table(_table: Table) -> Table:
    """Give an empty table, at a server where nothing is prepared."""
    _table.clear()
    return _table


def accounts(connection: Any) -> tuple[int, int]:
    """Read both accounts."""
    return connection.info.transaction_status, connection.status


# --- what a borrower leaves behind -----------------------------------------------------------------------------------


def begin_in_autocommit(connection: Any) -> None:
    connection.autocommit = True
    execute(connection, "begin")
    execute(connection, "insert into kept values (1)")


def fail_in_autocommit(connection: Any) -> None:
    begin_in_autocommit(connection)
    with suppress(psycopg2.ProgrammingError):
        execute(connection, "select nonsense")


def begin_and_leave_autocommit(connection: Any) -> None:
    begin_in_autocommit(connection)
    connection.autocommit = False


def fail_and_leave_autocommit(connection: Any) -> None:
    fail_in_autocommit(connection)
    connection.autocommit = False
    connection.isolation_level = "SERIALIZABLE"


def chain(connection: Any) -> None:
    connection.autocommit = True
    execute(connection, "begin")
    execute(connection, "rollback and chain")


def end_by(statement: str) -> Callable[[Any], None]:
    def end(connection: Any) -> None:
        execute(connection, "select 1")
        execute(connection, statement)

    return end


def prepare_in_sql(connection: Any) -> None:
    execute(connection, "insert into kept values (1)")
    execute(connection, f"prepare transaction '{PREPARED}'")


def begin_two_phase(connection: Any) -> None:
    connection.tpc_begin(connection.xid(1, "gtrid", "bqual"))
    execute(connection, "insert into kept values (1)")


def end_two_phase_in_sql(connection: Any) -> None:
    begin_two_phase(connection)
    execute(connection, "rollback")


def abort_two_phase_unseen(connection: Any) -> None:
    """psycopg2 rolls back here, and forgets that a two-phase transaction was begun."""
    begin_two_phase(connection)
    connection.set_isolation_level(1)


def change_encoding_in_two_phase(connection: Any) -> None:
    begin_two_phase(connection)
    connection.set_client_encoding("LATIN1")


def prepare(connection: Any) -> None:
    begin_two_phase(connection)
    connection.tpc_prepare()


# What is left, both accounts of it, and whether the connection can be made clean.
LEFT: dict[str, tuple[Callable[[Any], None], tuple[int, int], bool]] = {
    "BEGIN in autocommit": (begin_in_autocommit, (INTRANS, STATUS_READY), True),
    "a failed transaction in autocommit": (fail_in_autocommit, (INERROR, STATUS_READY), True),
    "BEGIN, and autocommit off": (begin_and_leave_autocommit, (INTRANS, STATUS_READY), True),
    "a failed transaction, and autocommit off": (fail_and_leave_autocommit, (INERROR, STATUS_READY), True),
    "ROLLBACK AND CHAIN": (chain, (INTRANS, STATUS_READY), True),
    "ROLLBACK in SQL": (end_by("rollback"), (IDLE, STATUS_BEGIN), True),
    "COMMIT in SQL": (end_by("commit"), (IDLE, STATUS_BEGIN), True),
    "END in SQL": (end_by("end"), (IDLE, STATUS_BEGIN), True),
    "PREPARE TRANSACTION in SQL": (prepare_in_sql, (IDLE, STATUS_BEGIN), True),
    "a two-phase transaction": (begin_two_phase, (INTRANS, STATUS_BEGIN), False),
    "a two-phase transaction, ended in SQL": (end_two_phase_in_sql, (IDLE, STATUS_BEGIN), False),
    "a two-phase transaction, and an isolation level": (abort_two_phase_unseen, (IDLE, STATUS_READY), False),
    "a two-phase transaction, and an encoding": (change_encoding_in_two_phase, (IDLE, STATUS_READY), False),
    "a prepared transaction": (prepare, (IDLE, STATUS_PREPARED), False),
}
LEAVES_PREPARED = {"PREPARE TRANSACTION in SQL", "a prepared transaction"}


def assert_next_borrower_is_unharmed(pool: Any, table: Table) -> None:
    """Assert that the next borrower has a transaction of its own, which its rollback and commit end."""
    connection = pool.getconn()
    assert accounts(connection) == (IDLE, STATUS_READY)
    connection.autocommit = False
    before = table.rows
    execute(connection, "insert into kept values (2)")
    assert accounts(connection) == (INTRANS, STATUS_BEGIN)
    connection.rollback()
    assert table.rows == before
    execute(connection, "insert into kept values (2)")
    connection.commit()
    assert table.rows == before + 1
    pool.putconn(connection)
    with pytest.raises(ZeroDivisionError), pool.connection() as connection:
        execute(connection, "insert into kept values (3)")
        raise ZeroDivisionError
    assert table.rows == before + 1


WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "in the background": {"background": True},
    "with a reset": {"reset": "discard"},
    "with a check": {"check": check_query, "check_after": 0},
    "reclaims": {"reclaim": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("class_name", ["ThreadedConnectionPool"])
def test_what_either_account_calls_unclean_is_made_clean_or_closed(
    our_class: Any, table: Table, left: str, way: str
) -> None:
    leave, seen, kept = LEFT[left]
    with opened(our_class(1, 1, table.dsn, name="accounts", **WAYS[way])) as pool, listening("accounts", 30) as log:
        connection = pool.getconn()
        leave(connection)
        before = (connection.autocommit, connection.isolation_level)
        assert accounts(connection) == seen
        pool.putconn(connection)
        wait_until(lambda: not counts(pool)["returning"], "the return")
        assert closes(pool) == ({} if kept else {"unclean": 1})
        assert table.rows == 0
        assert table.prepared == (left in LEAVES_PREPARED)
        if kept:
            assert list(pool._pool) == [connection]
            assert (connection.autocommit, connection.isolation_level) == before
        else:
            (line,) = log.texts
            assert line.startswith("connection closed: it could not be made clean: in a transaction: libpq says ")
            assert "two-phase" in line
        assert_next_borrower_is_unharmed(pool, table)


@pytest.mark.parametrize("opened_by", ["the constructor", "a caller"])
@pytest.mark.parametrize("left", LEFT)
def test_what_connect_leaves_is_rolled_back_or_the_connect_fails(
    our_class: Any, table: Table, left: str, opened_by: str
) -> None:
    leave, _, kept = LEFT[left]

    def connect(*args: Any, **kwargs: Any) -> Any:
        connection = psycopg2.connect(*args, **kwargs)
        leave(connection)
        return connection

    with ExitStack() as stack:

        def borrow() -> Any:
            pool = our_class(int(opened_by == "the constructor"), 1, table.dsn, connect=connect, max_idle=PATIENCE)
            pool.putconn(stack.enter_context(opened(pool)).getconn())
            return pool

        if kept:
            assert_next_borrower_is_unharmed(borrow(), table)
        else:
            with pytest.raises(psycopg2.ProgrammingError, match=r"connection discarded: connect left it in a trans"):
                borrow()
        assert table.prepared == (left in LEAVES_PREPARED)


@pytest.mark.parametrize("left", LEFT)
def test_a_block_that_ends_well_commits_by_either_account(our_class: Any, table: Table, left: str) -> None:
    leave, _, kept = LEFT[left]
    with opened(our_class(1, 1, table.dsn)) as pool:
        if kept:
            with pool.connection() as connection:
                leave(connection)
        else:
            # psycopg2 refuses to commit, and says why.
            with pytest.raises(psycopg2.ProgrammingError), pool.connection() as connection:
                leave(connection)
        committed = left in {"BEGIN in autocommit", "BEGIN, and autocommit off"}
        assert table.rows == committed
        assert table.prepared == (left in LEAVES_PREPARED)
        assert_next_borrower_is_unharmed(pool, table)


@pytest.mark.parametrize("left", LEFT)
def test_a_block_that_fails_rolls_back_by_either_account(our_class: Any, table: Table, left: str) -> None:
    leave, _, _ = LEFT[left]
    with opened(our_class(1, 1, table.dsn)) as pool:
        with pytest.raises(ZeroDivisionError), pool.connection() as connection:
            leave(connection)
            raise ZeroDivisionError
        assert (table.rows, table.prepared) == (0, left in LEAVES_PREPARED)
        assert_next_borrower_is_unharmed(pool, table)


def copy_both(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE_REPLICATION_SLOT kept TEMPORARY LOGICAL test_decoding")
    cursor.start_replication(slot_name="kept")


@pytest.mark.parametrize("way", WAYS)
def test_a_replication_connection_in_copy_is_closed(our_class: Any, table: Table, way: str) -> None:
    factory = psycopg2.extras.LogicalReplicationConnection
    options = {"connection_factory": factory, "name": "copying", **WAYS[way]}
    with opened(our_class(1, 1, table.dsn, **options)) as pool, listening("copying", 30) as log:
        connection = pool.getconn()
        copy_both(connection)
        assert accounts(connection) == (ACTIVE, STATUS_READY)
        pool.putconn(connection)
        wait_until(lambda: not counts(pool)["returning"], "the return")
        assert closes(pool) == {"unclean": 1}
        assert "COPY" in log.texts[0]
        again = pool.getconn()
        assert again is not connection
        psycopg2.extensions.cursor(again).execute("select 1")
        pool.putconn(again)


def test_a_replication_connection_in_a_transaction_is_rolled_back(our_class: Any, table: Table) -> None:
    """Its autocommit is on and cannot be read, and its cursors are of a kind of their own."""
    factory = psycopg2.extras.LogicalReplicationConnection
    with opened(our_class(1, 1, table.dsn, connection_factory=factory)) as pool:
        connection = pool.getconn()
        psycopg2.extensions.cursor(connection).execute("begin")
        pool.putconn(connection)
        assert (list(pool._pool), accounts(connection)) == ([connection], (IDLE, STATUS_READY))


@pytest.mark.parametrize(
    "options", [{"reset": "discard"}, {"check": check_query, "check_after": 0}], ids=["reset", "check"]
)
def test_a_replication_connection_can_be_reset_and_checked(
    our_class: Any, table: Table, options: dict[str, Any]
) -> None:
    factory = psycopg2.extras.LogicalReplicationConnection
    with opened(our_class(1, 1, table.dsn, connection_factory=factory, **options)) as pool:
        connection = pool.getconn()
        pool.putconn(connection)
        assert pool.getconn() is connection
        pool.putconn(connection)


# --- connections that are none, or not quite -------------------------------------------------------------------------


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("class_name", ["ThreadedConnectionPool"])
def test_a_proxy_is_read_like_the_connection_in_it(
    our_class: Any, table: Table, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, _, kept = LEFT[left]
    connect = psycopg2.connect
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: Proxy(connect(*args, **kwargs)))
    with opened(our_class(1, 1, table.dsn)) as pool:
        proxy = pool.getconn()
        leave(proxy)
        pool.putconn(proxy)
        # What no attribute tells, a proxy cannot pass on.
        unseen = LEFT[left][1] == (IDLE, STATUS_READY)
        assert list(pool._pool) == ([proxy] if kept or unseen else [])


@pytest.mark.parametrize("status", [STATUS_BEGIN, STATUS_PREPARED])
def test_a_subclass_with_a_status_of_its_own_is_believed(our_class: Any, table: Table, status: int) -> None:
    class Stubborn(psycopg2.extensions.connection):
        @property
        def status(self) -> int:
            return status

    with opened(our_class(1, 1, table.dsn, connection_factory=Stubborn)) as pool:
        pool.putconn(pool.getconn())
        assert closes(pool) == {"unclean": 1}


def test_a_subclass_whose_cursors_are_its_own_is_rolled_back_by_a_plain_one(our_class: Any, table: Table) -> None:
    class Guarded(psycopg2.extensions.connection):
        def cursor(self) -> Any:  # type: ignore[override]
            raise AssertionError("called")

    with opened(our_class(1, 1, table.dsn, connection_factory=Guarded)) as pool:
        connection = pool.getconn()
        connection.autocommit = True
        psycopg2.extensions.cursor(connection).execute("begin")
        pool.putconn(connection)
        assert (list(pool._pool), accounts(connection)) == ([connection], (IDLE, STATUS_READY))


# --- callbacks -------------------------------------------------------------------------------------------------------

CALLBACKS = [left for left in LEFT if left not in LEAVES_PREPARED]


@pytest.mark.parametrize("class_name", ["ThreadedConnectionPool"])
@pytest.mark.parametrize("left", CALLBACKS)
def test_what_configure_leaves_by_either_account_is_refused(our_class: Any, table: Table, left: str) -> None:
    leave, _, _ = LEFT[left]
    with opened(our_class(0, 1, table.dsn, configure=leave)) as pool:
        with pytest.raises(psycopg2.ProgrammingError, match="configure left it in a transaction: libpq says"):
            pool.getconn()
        assert (counts(pool)["lent"], table.rows) == (0, 0)


@pytest.mark.parametrize("class_name", ["ThreadedConnectionPool"])
@pytest.mark.parametrize("left", CALLBACKS)
@pytest.mark.parametrize("background", [False, True])
def test_what_reset_leaves_by_either_account_closes_the_connection(
    our_class: Any, table: Table, *, left: str, background: bool
) -> None:
    leave, _, _ = LEFT[left]
    options = {"reset": leave, "background": background, "name": "resetting"}
    with opened(our_class(1, 1, table.dsn, **options)) as pool, listening("resetting", 30) as log:
        pool.putconn(pool.getconn())
        wait_until(lambda: not counts(pool)["returning"] and closes(pool) == {"unclean": 1}, "the return")
        log.wait_for(1)
        assert "reset left it in a transaction: libpq says" in log.texts[0]
        assert table.rows == 0


@pytest.mark.parametrize("class_name", ["ThreadedConnectionPool"])
@pytest.mark.parametrize("left", CALLBACKS)
@pytest.mark.parametrize("way", ["getconn", "check"])
def test_what_a_check_leaves_by_either_account_is_rolled_back_or_closed(
    our_class: Any, table: Table, left: str, way: str
) -> None:
    leave, _, kept = LEFT[left]
    once = [leave]
    pool = our_class(1, 1, table.dsn, check=lambda connection: once.pop()(connection) if once else None, check_after=0)
    with opened(pool):
        pool.check() if way == "check" else pool.putconn(pool.getconn())
        assert not once
        assert closes(pool) == ({} if kept else {"unclean": 1})
        assert table.rows == 0
        assert_next_borrower_is_unharmed(pool, table)
