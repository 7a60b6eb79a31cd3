"""Forks, imports, and the end of a process."""
