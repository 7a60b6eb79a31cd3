"""Measure pgpool_rs against psycopg2.pool and against the best that could be done; `run.py` is the way in."""
