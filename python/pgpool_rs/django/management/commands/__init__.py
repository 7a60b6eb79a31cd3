"""One command: pgpool."""
