"""A watchdog for tests that may hang: all threads' stacks are printed, and the test fails.

A hang that leaves the interpreter running is ended by pytest-timeout, which prints the stacks and lets the other tests
go on. One that holds the GIL cannot be ended from Python: the faulthandler's own thread prints the stacks and ends the
process.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest

GRACE = 5.0  # seconds after pytest-timeout's turn


@pytest.fixture(scope="session")
def real_stderr(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give a descriptor of the stderr that pytest has not caught: it is gone when the process is ended."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        descriptor = os.dup(2)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def watchdog(request: pytest.FixtureRequest, real_stderr: int) -> Iterator[None]:
    """Watch a test that is marked with a timeout."""
    marker = request.node.get_closest_marker("timeout")
    assert marker is not None, "what is watched has @pytest.mark.timeout(seconds)"
    # One timer for the process: it takes the place of the one that pytest sets for each test.
    faulthandler.dump_traceback_later(marker.args[0] + GRACE, exit=True, file=real_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
