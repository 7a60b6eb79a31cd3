"""Other projects' own test suites, run with a pool of ours in the place of what they have."""
