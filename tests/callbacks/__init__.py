"""The table of callbacks, and what is done in each of them."""
