"""The processes of one limit: `python -m dev.trials.limit`."""
