"""Threads: limits, waiters, keys, interrupts and what is freed."""
