"""Put PostgreSQL at a distance: a proxy on loopback that delivers all that is said ONE_WAY seconds late.

Run as: distance.py PORT, with the server's port. Prints the port to connect to instead.
"""

from __future__ import annotations

import asyncio
import sys

from children import die, when_told_to_stop
from scenario import ONE_WAY


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction of a connection until its end. The two sides take turns, so nothing piles up here."""
    try:
        while said := await reader.read(1 << 16):
            await asyncio.sleep(ONE_WAY)
            writer.write(said)
    except ConnectionError:
        pass  # Hanging up without a word is an end too.
    finally:
        writer.close()


async def serve(port: int) -> None:
    """Carry every connection to the server's port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, server_writer), carry(server_reader, writer))

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(proxy.sockets[0].getsockname()[1], flush=True)
    await proxy.serve_forever()


if __name__ == "__main__":
    when_told_to_stop(die)
    asyncio.run(serve(int(sys.argv[1])))
