"""The table of callbacks, whole."""

from __future__ import annotations

from tests.callbacks import (
    sites_checking,
    sites_closing,
    sites_hooks,
    sites_keys,
    sites_limit,
    sites_listener,
    sites_log,
    sites_opening,
    sites_returning,
)
from tests.callbacks.sites import SITES

PARTS = (
    sites_opening,
    sites_checking,
    sites_returning,
    sites_closing,
    sites_keys,
    sites_hooks,
    sites_log,
    sites_listener,
    sites_limit,
)

__all__ = ["PARTS", "SITES"]
