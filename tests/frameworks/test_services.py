"""The services of the trials under real gunicorn, with uvicorn's workers too, and more visitors than connections."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from dev.servers.postgres import ThrowawayPostgres
from dev.trials.services.service import MAXCONN, SERVICES, WORKERS, Service
from pgpool_rs.testing import PATIENCE
from tests.lib.waits import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kind", SERVICES)
def test_all_visitors_are_served_and_those_who_hang_up_take_no_connection_along(
    kind: str, own_server: ThrowawayPostgres
) -> None:
    with Service(kind, own_server, timeout=PATIENCE) as service:
        with ThreadPoolExecutor(40) as visitors:
            leaving = [visitors.submit(service.leave, "/work?seconds=0.2") for _ in range(10)]
            answers = list(visitors.map(service.visit, ["/work?seconds=0.005"] * 200))
            for left in leaving:
                left.result()
        assert Counter(answer.status for answer in answers) == {200: 200}
        pools = service.whole()
        assert [len(set(told["backends"])) for told in pools.values()] == [MAXCONN] * WORKERS
        wait_until(lambda: service.sessions() == sum(told["size"] for told in pools.values()), "the pools' sessions")
        assert service.stop() == 0, service.log
        wait_until(lambda: service.sessions() == 0, "the end of all sessions")
