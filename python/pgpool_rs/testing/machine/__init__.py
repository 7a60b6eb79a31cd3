"""Random programs on a pool, and what must hold after each step."""
