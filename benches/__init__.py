"""Measure pgpool_rs against psycopg2.pool and against the best possible: `python -m benches`."""
