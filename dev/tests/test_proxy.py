"""The proxy that the other tests trust to be a bad network: each fault is what it says, and heals."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dev.servers.proxy import Proxy
from pgpool_rs.testing import PATIENCE


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give what the proxy leads to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[Proxy]:
    """Give a proxy that does no harm yet."""
    with Proxy(listener.getsockname()[1]) as proxy:
        yield proxy


@contextmanager
def connected(proxy: Proxy, listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect through the proxy, and give both ends."""
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as near:
        far, _ = listener.accept()
        with far:
            far.settimeout(PATIENCE)
            yield near, far


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


def test_a_swallowing_proxy_is_silent_until_it_is_healed(listener: socket.socket, proxy: Proxy) -> None:
    with connected(proxy, listener) as (near, far):
        proxy.swallow()
        near.sendall(b"question")
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert is_silent(near)
        assert is_silent(far)
        proxy.heal()
        assert (near.recv(100), near.recv(100), far.recv(100)) == (b"answer", b"", b"question")


@pytest.mark.parametrize("trouble", ["none", "swallow", "deaf"])
def test_a_cut_resets_every_connection_whatever_it_was_doing(
    listener: socket.socket, proxy: Proxy, trouble: str
) -> None:
    with connected(proxy, listener) as (near, far), connected(proxy, listener) as others:
        if trouble == "swallow":
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


def test_a_refusing_proxy_refuses_only_new_connections(listener: socket.socket, proxy: Proxy) -> None:
    with connected(proxy, listener) as (near, far):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)
        near.sendall(b"still here")
        assert far.recv(100) == b"still here"
        proxy.accept()
        with connected(proxy, listener):
            assert len(proxy) == 2
