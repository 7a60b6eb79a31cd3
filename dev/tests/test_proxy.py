"""The proxy that the other tests trust to be a bad network: each fault is what it says, and heals."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import psycopg2
import psycopg2.extensions
import pytest

from dev.servers.proxy import Proxy
from pgpool_rs.testing import PATIENCE
from tests.lib.waits import Task, wait_until


@final
class Listener:
    """A server of which the test holds both ends of each connection."""

    def __init__(self) -> None:
        """Listen."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE)
        self.port = self._socket.getsockname()[1]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self._socket.close()

    @contextmanager
    def connected(self, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Connect to this port, which leads here, and give the client's end and ours."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as near:
            far, _ = self._socket.accept()
            with far:
                far.settimeout(PATIENCE)
                yield near, far


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Give what the proxy leads to."""
    with Listener() as listener:
        yield listener


@pytest.fixture
def proxy(listener: Listener) -> Iterator[Proxy]:
    """Give a proxy that does no harm yet, and see that it leaves no thread behind."""
    threads = threading.active_count()
    with Proxy(listener.port) as proxy:
        yield proxy
    wait_until(lambda: threading.active_count() == threads, "the end of the proxy's threads")


def is_silent(end: socket.socket) -> bool:
    """Tell whether nothing arrives, not even an end, for a moment."""
    end.settimeout(0.05)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)
    return False


def test_what_is_said_arrives_on_both_sides_whole_and_in_order(listener: Listener, proxy: Proxy) -> None:
    long = bytes(range(256)) * 20_000
    with listener.connected(proxy.port) as (near, far):
        for source, sink in ((near, far), (far, near)):
            sending = Task(source.sendall, long)
            heard = b""
            while len(heard) < len(long):
                heard += sink.recv(1 << 20)
            assert heard == long
            sending.result()


def test_connections_are_counted_until_both_sides_have_ended(listener: Listener, proxy: Proxy) -> None:
    assert len(proxy) == 0
    with listener.connected(proxy.port) as (near, far):
        assert len(proxy) == 1
        near.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b""
        far.sendall(b"still there")
        assert near.recv(100) == b"still there"
        assert len(proxy) == 1
        far.close()
        assert near.recv(1) == b""
    wait_until(lambda: len(proxy) == 0)


@pytest.mark.parametrize("end", [0, 1], ids=["client", "server"])
def test_a_reset_on_one_side_is_a_reset_on_the_other(listener: Listener, proxy: Proxy, end: int) -> None:
    with listener.connected(proxy.port) as ends:
        ends[end].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ends[end].close()
        with pytest.raises(ConnectionResetError):
            ends[1 - end].recv(1)


def test_what_was_said_before_an_end_arrives_before_it(listener: Listener, proxy: Proxy) -> None:
    proxy.delay = 0.01
    with listener.connected(proxy.port) as (near, far):
        far.sendall(b"goodbye")
        far.close()
        assert near.recv(100) == b"goodbye"
        assert near.recv(100) == b""


def test_a_delay_is_kept_each_way_and_can_be_changed(listener: Listener, proxy: Proxy) -> None:
    def round_trip() -> float:
        started = time.monotonic()
        near.sendall(b"a")
        far.sendall(far.recv(1))
        near.recv(1)
        return time.monotonic() - started

    with listener.connected(proxy.port) as (near, far):
        proxy.delay = 0.05
        assert round_trip() >= 0.1
        proxy.delay = 0
        assert min(round_trip() for _ in range(20)) < 0.05


def test_a_swallowing_proxy_is_silent_and_keeps_connections_open(listener: Listener, proxy: Proxy) -> None:
    with listener.connected(proxy.port) as (near, far):
        proxy.swallow()
        near.sendall(b"question")
        far.sendall(b"answer")
        assert is_silent(near)
        assert is_silent(far)
        far.close()
        assert is_silent(near)
        # A new client gets in, and hears nothing.
        with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as late:
            late.sendall(b"hello")
            assert is_silent(late)
        proxy.heal()
        assert near.recv(100) == b"answer"


def test_a_healed_proxy_passes_on_what_it_had_swallowed(listener: Listener, proxy: Proxy) -> None:
    with listener.connected(proxy.port) as (near, far):
        proxy.swallow()
        near.sendall(b"one ")
        assert is_silent(far)
        near.sendall(b"two")
        proxy.heal()
        heard = b""
        while len(heard) < 7:
            heard += far.recv(100)
        assert heard == b"one two"


@pytest.mark.parametrize("trouble", ["none", "delay", "swallow", "deaf"])
def test_a_cut_resets_every_connection_whatever_it_was_doing(listener: Listener, proxy: Proxy, trouble: str) -> None:
    with listener.connected(proxy.port) as (near, far), listener.connected(proxy.port) as others:
        if trouble == "delay":
            proxy.delay = 60
            near.sendall(b"late")
        elif trouble == "swallow":
            proxy.swallow()
            near.sendall(b"lost")
        elif trouble == "deaf":
            # The server reads nothing, until all buffers on the way are full.
            near.settimeout(0.1)
            with pytest.raises(TimeoutError):
                near.sendall(bytes(1 << 26))
        proxy.cut()
        assert len(proxy) == 0
        for end in (near, *others):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        with pytest.raises(ConnectionResetError):
            while far.recv(1 << 20):
                pass
        proxy.heal()
        with listener.connected(proxy.port) as (client, server):
            client.sendall(b"again")
            assert server.recv(100) == b"again"


def test_a_refusing_proxy_refuses_only_new_connections(listener: Listener, proxy: Proxy) -> None:
    port = proxy.port
    with listener.connected(port) as (near, far):
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE)
        near.sendall(b"still here")
        assert far.recv(100) == b"still here"
        # The port stays the proxy's.
        with socket.socket() as intruder, pytest.raises(OSError, match="in use"):
            intruder.bind(("127.0.0.1", port))
        proxy.accept()
        proxy.accept()
        assert proxy.port == port
        with listener.connected(port):
            assert len(proxy) == 2
        proxy.refuse()
        proxy.heal()
        with listener.connected(port):
            pass


def test_a_client_of_a_server_that_is_not_there_is_reset(listener: Listener, proxy: Proxy) -> None:
    listener.__exit__()
    # It may be reset before create_connection has returned.
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as near:
        near.recv(1)


def test_a_closed_proxy_has_cut_and_refuses(listener: Listener) -> None:
    with Proxy(listener.port) as proxy, listener.connected(proxy.port) as (near, _):
        proxy.close()
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)


@pytest.mark.parametrize("address", ["dsn", "tls_dsn"], ids=["plain", "tls"])
def test_a_real_connection_leads_through_it(request: pytest.FixtureRequest, address: str) -> None:
    parsed = psycopg2.extensions.parse_dsn(request.getfixturevalue(address))
    with Proxy(int(parsed["port"])) as proxy:
        connection = psycopg2.connect(proxy.dsn(parsed))
        assert connection.info.port == proxy.port
        assert connection.info.ssl_in_use == (address == "tls_dsn")
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            assert cursor.fetchone() == (1,)
            proxy.cut()
            with pytest.raises(psycopg2.OperationalError):
                cursor.execute("select 1")
        with psycopg2.connect(**proxy.dsn_kwargs(parsed)) as connection:
            pass
        connection.close()
