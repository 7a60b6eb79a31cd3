"""A TLS session ticket makes a socket readable and says nothing: no death.

PostgreSQL sends none since 2024, but servers before that and proxies do, so here is one that sends them on demand.
"""

from __future__ import annotations

import _ssl
import ctypes
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import psycopg2.extensions
import pytest
import trustme

import pgpool_rs
from dev.servers.postgres import find_binaries
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import wait_until_readable, works


def _openssl() -> Any:
    """Find OpenSSL: what Python itself uses, unless it is built in, or what came with a server."""
    places = [getattr(_ssl, "__file__", None), find_binaries(tls=True).with_name("lib") / "libssl.so.3"]
    for place in places:
        library = ctypes.CDLL(str(place)) if place else None
        if hasattr(library, "SSL_new_session_ticket"):
            return library
    raise AssertionError(f"no OpenSSL 3: looked at {places}")


@final
class TicketOffice:
    """Speaks TLS with one client and plain with the server behind, and sends the client session tickets on demand."""

    def __init__(self, target: int, certificate: Path) -> None:
        """Listen at once, for a client of the port `target`."""
        self._target = target
        self._certificate = os.fsencode(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]
        self._desk, self._window = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> TicketOffice:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the server go, and wait for the end of the thread, which comes when the client goes."""
        self._thread.join(PATIENCE)
        self._desk.close()
        self._window.close()

    def send_ticket(self) -> None:
        """Send one more ticket."""
        self._window.send(b"one, please")

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as near:
            near.settimeout(None)
            # A client's request for TLS, and the answer that it may have it.
            assert near.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
            near.sendall(b"S")
            openssl = _openssl()
            for function in ("TLS_server_method", "SSL_CTX_new", "SSL_new"):
                getattr(openssl, function).restype = ctypes.c_void_p
            context = ctypes.c_void_p(openssl.SSL_CTX_new(ctypes.c_void_p(openssl.TLS_server_method())))
            assert openssl.SSL_CTX_use_certificate_chain_file(context, self._certificate) == 1
            assert openssl.SSL_CTX_use_PrivateKey_file(context, self._certificate, 1) == 1
            tls = ctypes.c_void_p(openssl.SSL_new(context))
            openssl.SSL_set_fd(tls, near.fileno())
            assert openssl.SSL_accept(tls) == 1
            with socket.create_connection(("127.0.0.1", self._target), PATIENCE) as far:
                self._carry(openssl, tls, near, far)
            openssl.SSL_free(tls)
            openssl.SSL_CTX_free(context)

    def _carry(self, openssl: Any, tls: ctypes.c_void_p, near: socket.socket, far: socket.socket) -> None:
        said = ctypes.create_string_buffer(1 << 14)  # As much as there can be in one record.
        while True:
            ready, _, _ = select.select([near, far, self._desk], [], [])
            if near in ready:
                length = openssl.SSL_read(tls, said, len(said))
                if length <= 0:
                    return
                far.sendall(said.raw[:length])
            if far in ready:
                answer = far.recv(1 << 14)
                if not answer:
                    return
                openssl.SSL_write(tls, answer, len(answer))
            if self._desk in ready:
                self._desk.recv(100)
                assert openssl.SSL_new_session_ticket(tls) == 1
                assert openssl.SSL_do_handshake(tls) == 1


@pytest.fixture
def office(dsn: str, tmp_path: Path) -> Iterator[TicketOffice]:
    """Give a proxy with TLS in front of a server without."""
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with TicketOffice(int(psycopg2.extensions.parse_dsn(dsn)["port"]), certificate) as office:
        yield office


@pytest.mark.parametrize("check", [pgpool_rs.check_socket, pgpool_rs.check_query], ids=["socket", "query"])
def test_a_session_ticket_is_no_death(office: TicketOffice, dsn: str, check: Any) -> None:
    pool = pgpool_rs.ThreadedConnectionPool(1, 1, dsn, port=office.port, sslmode="require", check=check, check_after=0)
    connection = pool.getconn()
    assert connection.info.ssl_in_use
    assert works(connection)
    pool.putconn(connection)
    for _ in range(3):
        office.send_ticket()
        wait_until_readable(connection)
        assert pool.getconn() is connection
        # It has been read: nothing makes the next check ask the driver again.
        assert not select.select([connection], [], [], 0)[0]
        assert works(connection)
        pool.putconn(connection)
    assert pool.get_stats()["checks_failed"] == 0
    pool.closeall()
