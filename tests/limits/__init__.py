"""Limits that pools share: the folder, the file, processes that die, stop and fork."""
