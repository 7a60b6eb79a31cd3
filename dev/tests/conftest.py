"""Fixtures: real servers."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.lib")

from tests.lib.servers import _own_server, own_server  # noqa: E402, F401
