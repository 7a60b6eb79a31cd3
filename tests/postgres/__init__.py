"""Real servers."""
