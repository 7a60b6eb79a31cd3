"""The house itself: its floors, and what a new part must not forget."""
