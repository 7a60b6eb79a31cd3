"""Fixtures: the pools that pgpool_rs is compared with."""

from __future__ import annotations

from typing import Any

import psycopg2.pool
import pytest


@pytest.fixture
def their_class(class_name: str) -> Any:
    """Give both classes of psycopg2.pool."""
    return getattr(psycopg2.pool, class_name)
