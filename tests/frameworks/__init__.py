"""The adapters and recipes, in the real frameworks, on a real server."""
