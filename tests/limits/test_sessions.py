"""The sessions of a limited pool end with its process, although its children have copies of their sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.programs import FORKS, run_forking_program

PROGRAM = """
import os
import signal

import psycopg2
from psycopg2.extensions import connection as plain

from pgpool_rs import HostLimit, ThreadedConnectionPool
from tests.lib.statements import execute
from tests.lib.postgres import admin, backends
from tests.lib.waits import Task, wait_until

class Alone(plain):
    # Equal to every other one, and without a hash.
    __eq__ = lambda self, other: True
    __hash__ = None

read_end, write_end = os.pipe()

def child():
    # Not everything that forks runs Python's hooks, so the connections may be left when the limit is first used.
    waiting = Task(pool.getconn)
    assert os.read(read_end, 1) == b"x", "the parent's sessions have not ended"
    try:
        execute(lent)
        raise AssertionError("the parent's session served the child")
    except psycopg2.Error:
        pass
    pool.putconn(lent)
    closed.close()
    own = waiting.result()
    assert execute(own) and backends(dsn, name) == 1
    pool.putconn(own)
    pool.closeall()

def parent():
    global pool, lent, closed
    limit = HostLimit("shop", 4, folder=folder)
    options = {"application_name": name, "timeout": 60, "connection_factory": Alone}
    pool = ThreadedConnectionPool(4, 4, dsn, limit=limit, **options)
    lent, closed, gone = (pool.getconn() for _ in range(3))
    # Its descriptor has another use from now on.
    descriptor = gone.fileno()
    os.dup2(os.memfd_create("other"), descriptor)
    if FORKS[how]() == 0:
        assert "other" in os.readlink(f"/proc/self/fd/{descriptor}")
        with ending_the_child():
            child()
    assert execute(lent) and execute(closed)
    os.kill(os.getpid(), signal.SIGSTOP)

# So the grandchild becomes a child of this process, which waits for it.
import ctypes
assert ctypes.CDLL(None).prctl(36, 1) == 0
pid = os.fork()
if pid == 0:
    with ending_the_child():
        parent()
assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
wait_until(lambda: backends(dsn, name) == 3, "the end of the session whose descriptor was taken")
os.kill(pid, signal.SIGKILL)
assert wait_for_end(pid) == -signal.SIGKILL
wait_until(lambda: backends(dsn, name) == 0, "the end of the killed parent's sessions")
os.write(write_end, b"x")
pid, status = os.wait()
assert status == 0, status
"""


def test_a_process_without_limited_pools_forks_where_it_can_open_no_file_more() -> None:
    program = """
import resource
import pgpool_rs
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
pid = os.fork()
if pid == 0:
    os._exit(0)
assert wait_for_end(pid) == 0
"""
    assert not run_forking_program(program)


def test_a_file_that_has_the_inode_number_of_a_lost_socket_on_another_device_is_left_alone() -> None:
    program = """
from pgpool_rs import _session
read_end, write_end = os.pipe()
number, inode, device, *others = os.fstat(write_end)
_session._sockets[write_end] = os.stat_result((number, inode, device + 1, *others)), os.getpid()
if os.fork() == 0:
    with ending_the_child():
        os.write(write_end, b"x")
os.close(write_end)
assert os.read(read_end, 1) == b"x"
os.wait()
"""
    assert not run_forking_program(program)


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("address", ["dsn", "tls_dsn"])
def test_the_child_of_a_killed_process_keeps_none_of_its_sessions(
    address: str, how: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    values = request.getfixturevalue(address), str(tmp_path), f"sessions {address} {how}", how
    run_forking_program(f"dsn, folder, name, how = {values!r}\n{PROGRAM}")
