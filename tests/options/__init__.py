"""The options, one file each, and what a pool says and counts."""
