"""Servers to test on: PostgreSQL, a standby, PgBouncer, and a proxy that fails as a network does."""
