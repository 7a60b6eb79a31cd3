"""The command `python -m pgpool_rs`."""
