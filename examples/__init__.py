"""A program that uses pgpool_rs: a small web shop."""
