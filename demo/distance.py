"""Put PostgreSQL at a distance: a proxy on loopback that delivers all that is said ONE_WAY seconds late.

Run as: distance.py PORT, with the server's port. Prints the port to connect to instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scenario import ONE_WAY

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from proxy import Proxy

if __name__ == "__main__":
    with Proxy(int(sys.argv[1]), delay=ONE_WAY) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()  # Its end is what tells a child to stop.
