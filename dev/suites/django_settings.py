"""The settings with which Django's own tests run on pgpool_rs.django."""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Callable
from typing import Any

import django

import pgpool_rs

DATABASES = {
    alias: {
        "ENGINE": "pgpool_rs.django",
        "NAME": f"{alias}_database",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["PGPOOL_SUITE_PORT"],
        "OPTIONS": {"pool": True, "gssencmode": "disable"},
    }
    for alias in ("default", "other")
}
SECRET_KEY = "of no use to anybody"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if django.VERSION < (6,):
    DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False

_skip_unless = unittest.skipUnless


def _skip_unless_of_a_pool(condition: object, reason: str) -> Callable[[Any], Any]:
    """Do not skip Django's tests of pools, which are for psycopg 3 only."""

    def decorated(test: Any) -> Any:
        name = test.__name__
        of_a_pool = reason == "psycopg3 specific test" and ("pool" in name or name.endswith("_in_atomic_block"))
        return test if of_a_pool else _skip_unless(condition, reason)(test)

    return decorated


unittest.skipUnless = _skip_unless_of_a_pool
# They import PoolTimeout from there.
sys.modules["psycopg_pool"] = pgpool_rs
