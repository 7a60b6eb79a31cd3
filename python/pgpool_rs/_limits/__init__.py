"""Limits that several pools share: those of one process, or of all processes of a host."""
