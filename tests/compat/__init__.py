"""A drop-in replacement: what psycopg2.pool does, and where pgpool_rs differs."""
