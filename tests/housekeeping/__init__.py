"""The housekeeper, and the work it does."""
