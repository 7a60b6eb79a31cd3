"""Fixtures: no collector of cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Turn the cycle collector off, so that only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
