"""Unpack Debian's packages into a folder, without installing them: no root, and nothing on the machine changes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path


class UnavailableError(Exception):
    """What is needed is not on this machine and cannot be put there; says what to do."""


def unpack(packages: list[str], folder: Path) -> None:
    """Download these packages, without what they depend on, and unpack them into `folder`, unless that was done before.

    Raises UnavailableError where apt has no such packages, or there is no apt.
    """
    stamp = folder / "unpacked"
    if stamp.exists() and stamp.read_text().split() == packages:
        return
    missing = [tool for tool in ("apt-get", "dpkg") if not shutil.which(tool)]
    if missing:
        raise UnavailableError(f"{' and '.join(missing)} not found: this is done on Debian and its relatives only")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as state:
        # Lists of its own, so that the machine's may be old, or root's.
        for part in ("lists/partial", "cache/archives/partial"):
            (Path(state) / part).mkdir(parents=True)
        options = [f"Dir::State::lists={state}/lists", f"Dir::Cache={state}/cache", "APT::Sandbox::User=root"]
        apt = ["apt-get", "--quiet=2", *(word for option in options for word in ("--option", option))]
        for command in ([*apt, "update"], [*apt, "download", *packages]):
            done = subprocess.run(command, cwd=state, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
            if done.returncode:
                raise UnavailableError(f"apt has no {' '.join(packages)} here: {done.stderr.decode().strip()}")
        for archive in Path(state).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    stamp.write_text("\n".join(packages))
