"""Django's PostgreSQL backend on a pool: `ENGINE` is "pgpool_rs.django" or "pgpool_rs.django.postgis".

It needs psycopg2. Where psycopg 3 is installed too, Django takes that when it first imports its own backend. So this
module imports Django's backend, and hides psycopg 3 meanwhile.
"""

import sys

from django.core.exceptions import ImproperlyConfigured

_psycopg = sys.modules.get("psycopg")
sys.modules["psycopg"] = None  # type: ignore[assignment]  # an import of it now raises ImportError
try:
    from django.db.backends.postgresql import psycopg_any

    if psycopg_any.is_psycopg3:
        raise ImproperlyConfigured(
            "pgpool_rs.django needs psycopg2, and Django has already chosen psycopg 3: "
            "put 'pgpool_rs.django' first into INSTALLED_APPS, or uninstall psycopg"
        )
    from django.db.backends.postgresql import base as base
finally:
    if _psycopg is None:
        del sys.modules["psycopg"]
    else:
        sys.modules["psycopg"] = _psycopg
