"""The numbers of the demo, the same for both pools. The shop's own are in `examples`."""

POOLS = ("pgpool_rs", "psycopg2.pool")
"""The modules of ThreadedConnectionPool, in the order of the demo."""

CLIENTS = 32
"""Clients, each with one request at a time. The web server has more threads, so that only the pool makes them wait."""

ONE_WAY = 0.001
"""Seconds from the web server to PostgreSQL, as to a server in the next building, and as many back."""

ORDERS = 0.2
"""The share of requests that write and commit. All others read, and leave an open transaction to the pool."""

WARM_UP = 1.0
"""Seconds of load that are not counted."""

MEASURED = 12.0
"""Seconds of load that are counted, for each pool."""
