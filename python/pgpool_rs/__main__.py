"""Run the command: `python -m pgpool_rs`."""

import sys

from pgpool_rs._command import main

if __name__ == "__main__":
    sys.exit(main())
