"""How long the random tests are, and whether the tables cross everything with everything."""

from __future__ import annotations

import os

import hypothesis

NIGHTLY = os.environ.get("PGPOOL_PROFILE") == "nightly"

# `make prove` takes the profile `nightly`, which runs the random tests 20 times as long.
# CI runs the same ones each time, so that a change is judged by what it changed.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=100, derandomize="CI" in os.environ)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("PGPOOL_PROFILE", "quick"))
