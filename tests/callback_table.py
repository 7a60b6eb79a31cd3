"""The table of callbacks, whole."""

from __future__ import annotations

import callback_sites_checking
import callback_sites_closing
import callback_sites_hooks
import callback_sites_keys
import callback_sites_log
import callback_sites_opening
import callback_sites_returning
from callback_sites import SITES

PARTS = (
    callback_sites_opening,
    callback_sites_checking,
    callback_sites_returning,
    callback_sites_closing,
    callback_sites_keys,
    callback_sites_hooks,
    callback_sites_log,
)

__all__ = ["PARTS", "SITES"]
