"""The default check looks at the socket under a connection, and asks the server nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from pgpool_rs import check_socket
from pgpool_rs.testing import BareFakeConnection, FakeServer
from tests.lib.pools import closes


class OnSocket(BareFakeConnection):
    """A connection with a socket under it."""

    def __init__(self, server: FakeServer, serial: int) -> None:
        super().__init__(server, serial)
        self.near, self.far = socket.socketpair()
        self.polls = 0
        self.ends_when_read = False

    def fileno(self) -> int:
        self.refuse_if_closed()
        return self.near.fileno()

    def poll(self) -> int:
        self.polls += 1
        self.near.recv(1)
        if self.ends_when_read:
            self.set_closed(2)
        return 0


@pytest.fixture
def on_socket(server: FakeServer) -> Iterator[OnSocket]:
    server.connection_class = OnSocket
    connection: OnSocket = server.connect()
    yield connection
    connection.near.close()
    connection.far.close()


def test_a_quiet_socket_is_not_read(on_socket: Any) -> None:
    check_socket(on_socket)
    assert on_socket.polls == 0


@pytest.mark.parametrize("messages", [b"n", b"nn"])
def test_what_has_come_in_is_read_and_no_death(on_socket: Any, messages: bytes) -> None:
    on_socket.far.send(messages)
    check_socket(on_socket)
    assert on_socket.polls == len(messages)


def test_more_than_can_be_read_in_two_goes_is_no_death(on_socket: Any) -> None:
    on_socket.far.send(b"n" * 10)
    check_socket(on_socket)
    assert on_socket.polls == 2


def test_a_socket_that_the_server_has_closed_is_dead_though_messages_wait(on_socket: Any) -> None:
    on_socket.far.send(b"last words")
    on_socket.far.close()
    with pytest.raises(psycopg2.OperationalError, match="the server has closed"):
        check_socket(on_socket)


def test_a_connection_that_finds_its_end_by_reading_is_dead(on_socket: Any) -> None:
    on_socket.far.send(b"n")
    on_socket.ends_when_read = True
    with pytest.raises(psycopg2.InterfaceError, match="closed"):
        check_socket(on_socket)


def test_an_error_of_the_read_is_raised(on_socket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_socket.far.send(b"n")

    def poll() -> int:
        raise psycopg2.OperationalError("terminating connection")

    monkeypatch.setattr(on_socket, "poll", poll)
    with pytest.raises(psycopg2.OperationalError, match="terminating"):
        check_socket(on_socket)


def test_a_closed_descriptor_is_dead(on_socket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    number = on_socket.fileno()
    on_socket.near.close()
    monkeypatch.setattr(on_socket, "fileno", lambda: number)
    with pytest.raises(psycopg2.OperationalError, match="the server has closed"):
        check_socket(on_socket)


def test_an_idle_connection_whose_server_has_gone_is_replaced(server: FakeServer, our_class: Any) -> None:
    server.connection_class = OnSocket
    pool = our_class(2, 2, check_after=0)
    for connection in pool._pool:
        connection.far.close()
    assert pool.getconn().serial == 3
    assert (closes(pool), pool.get_stats()["connections_lost"]) == ({"lost": 2}, 2)
    for connection in server.connections:
        assert isinstance(connection, OnSocket)
        connection.near.close()
        connection.far.close()
