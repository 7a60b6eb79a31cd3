"""The options of a pool as Django's users write them: with psycopg_pool's names and defaults."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs._core import kind
from pgpool_rs._options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: dict[str, Any] = {"minconn": 4, "maxconn": None, "timeout": 30, "max_idle": 600, "max_lifetime": 3600}
DEFAULTS |= {"open_workers": 3, "reconnect_backoff": (0.1, 2), "reclaim": True, "open": False}
_OURS = {"min_size": "minconn", "max_size": "maxconn", "num_workers": "open_workers"}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_OPTIONS = {*_OURS, *_THEIRS, *(option.name for option in dataclasses.fields(Options))}


def check(options: Mapping[str, Any]) -> None:
    """Refuse an option of the pool's in OPTIONS itself."""
    misplaced = [name for name in options if name in _OPTIONS]
    if misplaced:
        theirs = ", ".join(f'"{_THEIRS.get(name, name)}": ...' for name in misplaced)
        raise ImproperlyConfigured(
            f'these are options of the pool, not of the connection: write "OPTIONS": {{"pool": {{{theirs}}}}}'
        )


def given(pool: Any) -> dict[str, Any]:
    """Return the options in OPTIONS["pool"], by our names."""
    if pool is True:
        return {}
    if not isinstance(pool, dict):
        raise ImproperlyConfigured(
            f'OPTIONS["pool"] must be a dict of options, True for the defaults, or None for no pool, not {kind(pool)}'
        )
    return {_OURS.get(name) or name: value for name, value in pool.items()}


def make(options: dict[str, Any], params: Mapping[str, Any]) -> ThreadedConnectionPool:
    """Make a pool that takes `params` for psycopg2.connect. Errors have Django's names of the options."""
    options = {**DEFAULTS, **options}
    if options["maxconn"] is None:
        options["maxconn"] = options["minconn"]
    try:
        pool = ThreadedConnectionPool(**params, **options)
    except (TypeError, ValueError) as error:
        text = re.sub("|".join(_THEIRS), lambda name: _THEIRS[name[0]], str(error))
        default = f"; min_size is {DEFAULTS['minconn']} by default" if "min_size=" in text else ""
        raise ImproperlyConfigured(f"{text}{default}") from error
    if pool.maxconn == 0:
        raise ImproperlyConfigured("max_size must be 1 or more, not 0; it is min_size by default")
    return pool
