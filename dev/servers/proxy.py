"""Stand between a client and a server on loopback, and fail as a network does.

    with Proxy(server.port) as proxy:
        connection = psycopg2.connect(**proxy.dsn_kwargs(server.dsn_kwargs))
        proxy.swallow()

It treats all connections alike, with TLS or without, and does not read the data.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

HOST = "127.0.0.1"
CHUNK = 1 << 16
PATIENCE = 10.0  # Seconds that a step of the proxy's own may take before it counts as hanging.


@final
class Proxy:
    """Carries TCP connections to a port on loopback, with two threads for each, and disturbs them on demand."""

    def __init__(self, target: int, *, delay: float = 0.0) -> None:
        """Listen at once, for clients of the port `target`."""
        self.delay = delay
        """Seconds by which data comes late, each way. A new value holds for the data that is read from then on."""
        self._target = target
        self._changed = threading.Condition()
        self._links: set[_Link] = set()
        self._swallowing = False
        # Bound as long as the proxy lives, so that no other process gets the port while it refuses.
        self._place = _bound_to(0)
        self.port: int = self._place.getsockname()[1]
        """The TCP port on 127.0.0.1 to connect to."""
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        """Cut all connections and listen no more."""
        self.close()

    def __len__(self) -> int:
        """Count the connections that are open."""
        with self._changed:
            return len(self._links)

    def dsn_kwargs(self, address: Mapping[str, Any]) -> dict[str, Any]:
        """Give an address of the server, as psycopg2.connect takes it, that leads through here instead."""
        return {**address, "host": HOST, "port": self.port}

    def dsn(self, address: Mapping[str, Any]) -> str:
        """Give dsn_kwargs as one string."""
        return " ".join(f"{name}={value}" for name, value in self.dsn_kwargs(address).items())

    def swallow(self) -> None:
        """Take all data from now on and deliver none, nor the ends of connections, until heal().

        New connections are accepted, and lead nowhere until then.
        """
        with self._changed:
            self._swallowing = True

    def cut(self) -> None:
        """Reset all open connections, at both ends. Data under way is lost."""
        with self._changed:
            doomed = set(self._links)
            for link in doomed:
                link.cut()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: doomed.isdisjoint(self._links), PATIENCE):
                raise AssertionError("a connection of the proxy hangs")

    def refuse(self) -> None:
        """Refuse new connections, as a host without a server does. Open connections stay."""
        if self._listener is None:
            return
        assert self._accepting is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self._listener.close()
        self._listener = None

    def accept(self) -> None:
        """Take new connections again."""
        if self._listener is not None:
            return
        self._listener = _bound_to(self.port)
        self._listener.listen()
        self._accepting = threading.Thread(target=self._serve, args=[self._listener], daemon=True)
        self._accepting.start()

    def heal(self) -> None:
        """End all faults: delays, swallowing and refusals."""
        with self._changed:
            self.delay = 0.0
            self._swallowing = False
            self._changed.notify_all()
        self.accept()

    def close(self) -> None:
        """Refuse, cut, and give up the port."""
        self.refuse()
        self.cut()
        self._place.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError as error:
                if error.errno == errno.EINVAL:  # It was shut down.
                    return
                raise
            link = _Link(near)
            with self._changed:
                self._links.add(link)
            threading.Thread(target=self._link, args=[link], daemon=True).start()

    def _link(self, link: _Link) -> None:
        """Carry a connection until both directions have ended, or one has broken."""
        try:
            link.connect(self._target)
            back = threading.Thread(target=self._carry, args=[link, link.far, link.near], daemon=True)
            back.start()
            self._carry(link, link.near, link.far)
            back.join()
        except OSError:  # There is no server: a reset tells the client.
            self._break(link)
        finally:
            with self._changed:
                link.close()
                self._links.discard(link)
                self._changed.notify_all()

    def _carry(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        try:
            said = link.receive(source)
            while said and self._is_passed(link):
                link.send(sink, said)
                said = link.receive(source)
            if self._is_passed(link):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._break(link)

    def _break(self, link: _Link) -> None:
        with self._changed:
            link.cut()
            self._changed.notify_all()

    def _is_passed(self, link: _Link) -> bool:
        """Wait until the data may be delivered; return False if the link is cut first."""
        with self._changed:
            if self.delay > 0:
                self._changed.wait_for(lambda: link.is_cut, self.delay)
            self._changed.wait_for(lambda: link.is_cut or not self._swallowing)
            return not link.is_cut


class _Link:
    """A connection from a client to the proxy, and the one that goes on to the server."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.far = socket.socket()
        self.is_cut = False
        # A pipe that ends a wait on a socket, so that the client gets a reset and no orderly end.
        self._ear, self._bell = os.pipe()

    def connect(self, port: int) -> None:
        self.far.connect((HOST, port))
        for end in (self.near, self.far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(False)

    def receive(self, source: socket.socket) -> bytes:
        self._wait(source, select.POLLIN)
        return source.recv(CHUNK)

    def send(self, sink: socket.socket, said: bytes) -> None:
        while said:
            self._wait(sink, select.POLLOUT)
            said = said[sink.send(said) :]

    def cut(self) -> None:
        """Stop the threads that carry data."""
        if not self.is_cut:
            self.is_cut = True
            os.write(self._bell, b"!")

    def close(self) -> None:
        """Close both connections: with a reset if the link was cut, else in good order."""
        for end in (self.near, self.far):
            if self.is_cut:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        os.close(self._ear)
        os.close(self._bell)

    def _wait(self, end: socket.socket, event: int) -> None:
        poll = select.poll()
        poll.register(end, event)
        poll.register(self._ear, select.POLLIN)
        if any(descriptor == self._ear for descriptor, _ in poll.poll()):
            raise ConnectionResetError


def _bound_to(port: int) -> socket.socket:
    """Make a socket that shares its port with others like it, of which one at a time may listen."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind((HOST, port))
    return place


def carry_late(listener: socket.socket, target: int, one_way: float) -> None:
    """Carry connections to a port on loopback for ever, with this delay each way, and no faults.

    One thread does all, with half of the Proxy's work for each message.
    """
    others: dict[socket.socket, socket.socket] = {}
    under_way: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        rest = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select([listener, *others], [], [], rest)[0]:
            if end is listener:
                near, far = listener.accept()[0], socket.create_connection((HOST, target))
                others[near], others[far] = far, near
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                continue
            said = b""
            with suppress(ConnectionError):
                said = end.recv(CHUNK)
            under_way.append((time.monotonic() + one_way, others[end], said))
            if not said:
                del others[end]
        while under_way and under_way[0][0] <= time.monotonic():
            _, sink, said = under_way.popleft()
            with suppress(OSError):  # It has gone.
                sink.sendall(said) if said else sink.shutdown(socket.SHUT_WR)


@contextmanager
def far_away(target: int, one_way: float) -> Iterator[int]:
    """Carry connections late in a process of its own, which takes no GIL of this one; give the port to connect to."""
    command = [sys.executable, "-m", "dev.servers.proxy", str(target), str(one_way)]
    root, pipe = Path(__file__).resolve().parents[2], subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())
        # Leaving the context closes its standard input, and so ends it.


if __name__ == "__main__":
    # `python -m dev.servers.proxy PORT SECONDS`: runs until the end of its standard input.
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        arguments = (listener, int(sys.argv[1]), float(sys.argv[2]))
        threading.Thread(target=carry_late, args=arguments, daemon=True).start()
        sys.stdin.read()
        os._exit(0)
