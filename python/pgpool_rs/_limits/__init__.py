"""Limits that several pools share: those of one process, or of all processes of a host."""

from pgpool_rs._limits.limits import Holder, HostLimit, SharedLimit

__all__ = ["Holder", "HostLimit", "SharedLimit"]
