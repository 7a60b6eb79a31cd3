"""What servers of tests listen on, and how they are visited."""

from __future__ import annotations

import http.client
import socket
from typing import final


def free_port() -> int:
    """Find a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def visit(place: str, path: str, *, timeout: float) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask for a page, by the server's address and port or by the path of its Unix socket; give its head and its body.

    :raises OSError: nobody listens, or no answer comes within `timeout` seconds.
    :raises HTTPException: the answer is broken off.
    """
    connection = (http.client.HTTPConnection if ":" in place else _UnixConnection)(place, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close", "Host": "localhost"})
        answer = connection.getresponse()
        ends_with_the_connection = answer.length is None and not answer.chunked
        body = answer.read()
        if ends_with_the_connection and not body:  # http.client takes a head that is broken off for a whole one.
            raise http.client.IncompleteRead(body)
        return answer, body
    finally:
        connection.close()


@final
class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, whose path is the host."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)
