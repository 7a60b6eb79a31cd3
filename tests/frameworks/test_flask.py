"""The extension of Flask, in real applications on a real server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from flask import Flask, Response, stream_with_context

from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs import PoolClosed, PoolTimeout
from pgpool_rs.flask import Database
from pgpool_rs.testing import PATIENCE
from tests.lib.pools import give_back, lend
from tests.lib.postgres import Connects, admin, backends, make_idle, opened, terminate
from tests.lib.statements import execute
from tests.lib.waits import Task, counts, wait_until


class Site:
    """An application with one database, whose table `notes` is empty at first."""

    def __init__(self, dsn: str, name: str, **settings: Any) -> None:
        self.dsn = dsn
        self.name = name
        self.db = Database()
        self.app = Flask("site")
        self.app.config["PGPOOL"] = {"maxconn": 2, "dsn": dsn, "application_name": name, **settings}
        self.db.init_app(self.app)
        self.client = self.app.test_client()

    @property
    def pool(self) -> Any:
        with self.app.app_context():
            return self.db.pool

    @property
    def notes(self) -> int:
        """Count the notes that were committed."""
        with admin(self.dsn) as connection:
            return int(execute(connection, f"select count(*) from {self.name}"))

    def note(self, connection: Any) -> None:
        execute(connection, f"insert into {self.name} values (1)")

    @property
    def lent(self) -> int:
        return counts(self.pool)["lent"]


@pytest.fixture
def site(dsn: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    name = f"flask_{request.node.name.partition('[')[0][-50:]}"
    site = Site(dsn, name, timeout=0.05, retry_after=7)
    with admin(dsn) as connection:
        execute(connection, f"create table {name} (n int)")
    yield site
    with opened(site.pool) as pool:
        assert counts(pool)["lent"] == 0


def test_nothing_is_connected_before_the_first_use(site: Site) -> None:
    site.app.add_url_rule("/", view_func=lambda: "static")
    assert site.client.get("/").text == "static"
    assert backends(site.dsn, site.name) == 0


def test_a_worker_that_ends_closes_its_pool_whether_it_was_used_or_not(dsn: str) -> None:
    for uses in (0, 1):
        site = Site(dsn, "ending")
        with site.app.app_context():
            for _ in range(uses):
                execute(site.db.connection)
            assert site.db.close() == uses, "what is lent is closed when it comes back"
        with site.app.app_context(), pytest.raises(PoolClosed):
            _ = site.db.connection
        wait_until(lambda: backends(dsn, "ending") == 0)


def test_a_request_has_one_connection_and_gives_it_back(site: Site) -> None:
    @site.app.get("/")
    def page() -> list[int]:
        return [execute(site.db.connection), execute(site.db.connection), site.lent]

    first, second, lent = site.client.get("/").get_json()
    assert (first == second, lent, site.lent) == (True, 1, 0)


def test_what_is_not_committed_is_rolled_back(site: Site) -> None:
    @site.app.get("/")
    def page() -> str:
        site.note(site.db.connection)
        return "done"

    assert site.client.get("/").status_code == 200
    assert (site.notes, site.lent) == (0, 0)


def test_a_transaction_commits_and_the_rest_of_the_request_does_not(site: Site) -> None:
    @site.app.get("/")
    def page() -> str:
        with site.db.transaction() as connection:
            site.note(connection)
        site.note(site.db.connection)
        return "done"

    site.client.get("/")
    assert site.notes == 1


def test_an_error_that_a_handler_answers_commits_nothing(site: Site) -> None:
    seen: list[BaseException | None] = []
    site.app.teardown_appcontext(seen.append)

    @site.app.errorhandler(KeyError)
    def answer(_: KeyError) -> tuple[str, int]:
        return "no such thing", 404

    @site.app.get("/<how>")
    def page(how: str) -> str:
        if how == "transaction":
            with site.db.transaction() as connection:
                site.note(connection)
                raise KeyError(how)
        site.note(site.db.connection)
        raise KeyError(how)

    assert [site.client.get(f"/{how}").status_code for how in ("transaction", "connection")] == [404, 404]
    assert seen == [None, None], "the teardown is told of no error"
    assert (site.notes, site.lent) == (0, 0)


def test_an_error_that_nobody_answers_rolls_back_and_is_raised(site: Site) -> None:
    site.app.testing = True

    @site.app.get("/")
    def page() -> str:
        site.note(site.db.connection)
        raise KeyError("page")

    with pytest.raises(KeyError):
        site.client.get("/")
    assert (site.notes, site.lent) == (0, 0)


def test_a_transaction_within_a_transaction_is_refused(site: Site) -> None:
    refused = pytest.raises(psycopg2.ProgrammingError, match="re-entered")
    with site.app.app_context(), refused, site.db.transaction() as connection, site.db.transaction():
        site.note(connection)
    assert site.notes == 0


def test_a_commit_that_fails_is_raised(site: Site) -> None:
    with admin(site.dsn) as connection:
        execute(connection, f"alter table {site.name} add unique (n) deferrable initially deferred")
    with site.app.app_context(), pytest.raises(psycopg2.errors.UniqueViolation), site.db.transaction() as connection:
        site.note(connection)
        site.note(connection)
    assert site.notes == 0


def test_a_lost_connection_raises_its_own_error_and_is_lent_no_more(site: Site) -> None:
    with site.app.app_context(), pytest.raises(psycopg2.OperationalError), site.db.transaction() as connection:
        lost = execute(connection)
        terminate(site.dsn, lost)
        execute(connection)
    with site.app.app_context():
        assert execute(site.db.connection) != lost


def test_the_pool_learns_from_an_error_that_a_handler_has_answered(dsn: str) -> None:
    """After a failover, the first request that fails has every older connection replaced."""
    site = Site(dsn, "learns", check_after=60)
    site.app.register_error_handler(psycopg2.errors.ReadOnlySqlTransaction, lambda _: ("sorry", 500))

    @site.app.get("/")
    def page() -> str:
        with site.db.transaction() as connection:
            execute(connection, "set default_transaction_read_only = on")
        with site.db.transaction() as connection:
            execute(connection, "create table never (n int)")
        return "never"

    with opened(site.pool) as pool:
        old = make_idle(pool, 2)
        assert site.client.get("/").status_code == 500
        new = lend(pool, 2)
        assert not {*old} & {*new}
        give_back(pool, new)


def test_a_full_pool_answers_503_and_when_to_come_again(site: Site) -> None:
    @site.app.get("/")
    def page() -> str:
        return str(execute(site.db.connection))

    first, second = site.pool.getconn(), site.pool.getconn()
    refused = site.client.get("/")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
    for connection in (first, second):
        site.pool.putconn(connection)
    assert site.client.get("/").status_code == 200


def test_each_database_of_an_application_has_its_own_retry_after(site: Site) -> None:
    replica = Database(key="pgpool_rs")
    site.app.config["pgpool_rs"] = {"maxconn": 1, "timeout": 0, "dsn": site.dsn, "retry_after": 99}
    replica.init_app(site.app)
    site.app.add_url_rule("/", "main", lambda: str(execute(site.db.connection)))
    site.app.add_url_rule("/replica", "replica", lambda: str(execute(replica.connection)))
    with site.app.app_context():
        assert execute(replica.connection)
        lent = lend(site.pool, 2)
        for path, pause in (("/", "7"), ("/replica", "99")):
            refused = Task(site.app.test_client().get, path).result()
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, pause)
        give_back(site.pool, lent)
    with site.app.app_context():
        replica.close()


@pytest.mark.parametrize("minconn", [0, 2])
def test_while_the_server_is_down_few_requests_connect(own_server: ThrowawayPostgres, minconn: int) -> None:
    connect = Connects()
    site = Site(own_server.dsn, "down", minconn=minconn, maxconn=8, timeout=PATIENCE, check_after=0, connect=connect)
    site.app.add_url_rule("/", view_func=lambda: str(execute(site.db.connection)))
    own_server.stop()  # Requests open the pool of two.
    with ThreadPoolExecutor(20) as visitors:
        visits = [visitors.submit(site.app.test_client().get, "/") for _ in range(40)]
        wait_until(lambda: len(connect.failed) > 2)
        own_server.start()
        statuses = Counter(visit.result().status_code for visit in visits)
    with opened(site.pool):
        assert statuses[500] + statuses[200] == 40
        assert 0 < statuses[500] <= len(connect.failed) < 20


def test_the_applications_own_page_for_503_is_shown(site: Site) -> None:
    @site.app.errorhandler(503)
    def sorry(error: Any) -> tuple[str, int, dict[str, Any]]:
        return "come again", 503, {"Retry-After": str(error.retry_after)}

    @site.app.get("/")
    def page() -> str:
        raise PoolTimeout("busy")

    answer = site.client.get("/")
    assert (answer.text, answer.headers["Retry-After"]) == ("come again", "7")


def test_a_streamed_answer_keeps_the_connection_to_its_end(site: Site) -> None:
    @site.app.get("/")
    def page() -> Response:
        def lines() -> Iterator[str]:
            for n in range(3):
                yield f"{execute(site.db.connection, 'select %s', [n])}"

        return Response(stream_with_context(lines()))

    answer = site.client.get("/", buffered=False)
    parts = answer.iter_encoded()
    assert next(iter(parts)) == b"0"
    assert site.lent == 1
    answer.close()
    assert site.lent == 0


def test_a_context_within_a_context_has_a_connection_of_its_own(site: Site) -> None:
    with site.app.app_context():
        outer = execute(site.db.connection)
        with site.app.app_context():
            assert execute(site.db.connection) != outer
        assert site.lent == 1
        assert execute(site.db.connection) == outer


def test_threads_of_requests_have_a_connection_each(dsn: str) -> None:
    site = Site(dsn, "threads", maxconn=4, timeout=30)
    inside = threading.Barrier(4)

    @site.app.get("/")
    def page() -> str:
        with site.db.transaction() as connection:
            backend = str(execute(connection))
            inside.wait(30)
            return backend

    with ThreadPoolExecutor(8) as visitors:
        answers = list(visitors.map(lambda _: site.app.test_client().get("/").text, range(40)))
    assert 1 <= len(set(answers)) <= 4
    with opened(site.pool) as pool:
        assert pool.get_stats()["requests_num"] == 40


def test_two_applications_and_two_databases_have_pools_of_their_own(dsn: str) -> None:
    one, other = Site(dsn, "one"), Site(dsn, "other")
    replica = Database(key="REPLICA")
    one.app.config["REPLICA"] = {"dsn": dsn, "application_name": "replica"}
    replica.init_app(one.app)
    other.db = one.db
    one.db.init_app(other.app)
    asked = "select current_setting('application_name')"
    with one.app.app_context():
        assert execute(one.db.connection, asked) == "one"
        assert execute(replica.connection, asked) == "replica"
        with other.app.app_context():
            assert execute(one.db.connection, asked) == "other"
        replica.pool.closeall()
    for site in (one, other):
        site.pool.closeall()


def test_a_setting_that_the_pool_does_not_know_is_named() -> None:
    app = Flask("site")
    app.config["PGPOOL"] = {"max_conn": 3}
    with pytest.raises(TypeError, match="max_conn"):
        Database(app)


@pytest.mark.parametrize(
    ("config", "said"), [({}, "None"), ({"PGPOOL": "dbname=shop"}, "a str"), ({"PGPOOL": [1]}, "a list")]
)
def test_settings_that_are_missing_or_no_dict_are_refused(config: dict[str, Any], said: str) -> None:
    app = Flask("site")
    app.config.update(config)
    with pytest.raises(TypeError) as raised:
        Database(app)
    assert str(raised.value) == f'app.config["PGPOOL"] must be a dict before init_app, and is {said}'


def test_an_application_without_the_database_is_told_what_to_call() -> None:
    with Flask("site").app_context():
        for use in (lambda: Database().connection, lambda: Database().pool, lambda: Database().close()):
            with pytest.raises(
                RuntimeError, match=r'call init_app\(app\): this application has no Database\(key="PGPOOL"\)'
            ):
                use()


def test_a_view_that_waits_is_woken_by_the_request_that_ends(site: Site) -> None:
    @site.app.get("/")
    def page() -> str:
        return str(execute(site.db.connection))

    site.app.config["PGPOOL"]["timeout"] = 30
    site.db.init_app(site.app)
    held = [site.pool.getconn(), site.pool.getconn()]
    task = Task(site.client.get, "/")
    wait_until(lambda: counts(site.pool)["waiting"] == 1)
    for connection in held:
        site.pool.putconn(connection)
    assert task.result().status_code == 200
