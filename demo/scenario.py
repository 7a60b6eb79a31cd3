"""The numbers of the demo, the same for both pools."""

POOLS = ("pgpool_rs", "psycopg2.pool")
"""The modules that ThreadedConnectionPool is imported from, in the order in which they are tried."""

CLIENTS = 32
"""Clients, each with one request under way at a time."""

THREADS = CLIENTS + 8
"""Threads of the web server: one for each client, so that nobody queues anywhere but at the pool, and some to spare."""

CONNECTIONS = 12
"""Connections in the pool: minconn and maxconn, so that psycopg2.pool too keeps what is returned."""

ONE_WAY = 0.001
"""Seconds from the web server to PostgreSQL, as to a server in the next building, and as many back."""

PATIENCE = 5.0
"""Seconds that a request waits for a connection before it is answered with 503."""

RETRY = 0.005
"""Seconds between two attempts to get a connection from a pool that refuses instead of waiting."""

ORDERS = 0.2
"""The share of requests that write and commit; all others only read, and leave their transaction to the pool."""

PRODUCTS = 1000
"""Products in the shop."""

WARM_UP = 1.0
"""Seconds of load that are not counted."""

MEASURED = 12.0
"""Seconds of load that are counted, for each pool."""
