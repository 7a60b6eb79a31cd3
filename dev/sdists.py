"""Get the sources of a package from PyPI, tests included, which its wheel has not."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "target" / "sdists"


def unpacked(requirement: str) -> Path:
    """Return the folder with the sources of `requirement`, such as "Django==5.2.19". Only the first call downloads."""
    name, _, version = requirement.partition("==")
    if not re.fullmatch(r"[\w.-]+", name) or not re.fullmatch(r"[\w.]+", version):
        raise ValueError(f"a name and an exact version are needed, as in 'Django==5.2.19', not {requirement!r}")
    place = FOLDER / requirement
    if not place.is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
            # What it takes to build the package may come as wheels.
            options = ["--quiet", "--no-deps", "--no-binary", name, "--dest", temporary]
            subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
            (archive,) = Path(temporary).iterdir()
            with tarfile.open(archive) as sources:
                sources.extractall(temporary, filter="data")
            (folder,) = (path for path in Path(temporary).iterdir() if path.is_dir())
            try:
                folder.rename(place)
            except OSError:  # Another process was quicker.
                if not place.is_dir():
                    raise
    return place
