"""The demo: the shop of `examples/` under load, with pgpool_rs and then with psycopg2.pool."""
