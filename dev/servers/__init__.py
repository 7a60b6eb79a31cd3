"""Servers to test on: PostgreSQL, a standby, PgBouncer, and a proxy that is as bad a network as one asks for."""
