"""A fixture: what the tests of a limit begin ends with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgpool_rs import _publishing


@pytest.fixture(autouse=True)
def _publish_no_more() -> Iterator[None]:
    """Keep the pools of later tests from being published, since this process has named a limit."""
    yield
    _publishing._publisher.files.clear()
