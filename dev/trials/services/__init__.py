"""Web services under gunicorn that are disturbed under load: see `python -m dev.trials.services --help`."""
