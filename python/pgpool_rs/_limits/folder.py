"""Find the folder in which the processes of a host meet, and refuse one that another user could prepare."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

# File systems of other hosts: a lock there is slow, and may mean nothing.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "lustre", "fuse.sshfs", "fuse.glusterfs"})


def folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for the package's files, made if it is the user's own and does not exist yet.

    :param given: the folder to use. It must exist; its mode says which users may share it.
    :raises OSError: it cannot be used, and why.
    """
    path = _own() if given is None else Path(given).absolute()
    if given is None:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise type(error)(error.errno, f"cannot make the folder: {error.strerror}", str(path)) from None
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no folder {path}: make it first, or give another folder=") from None
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is no folder: a link or a file is not followed")
    if given is None and found.st_uid != os.geteuid():
        raise PermissionError(f"the folder {path} belongs to user {found.st_uid}: remove it, or give folder=")
    if given is None and found.st_mode & 0o022:
        raise PermissionError(f"others may write into the folder {path}: set its mode to 0700, or give folder=")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(f"this process may not write into the folder {path}")
    if (kind := _file_system(found.st_dev)) in _REMOTE:
        raise OSError(f"the folder {path} lies on {kind}: give a folder= on this host")
    return path


def _own() -> Path:
    user = os.geteuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    return runtime / "pgpool_rs" if runtime.is_dir() else Path(tempfile.gettempdir(), f"pgpool_rs-{user}")


def _file_system(device: int) -> str | None:
    """Return the type of the file system on this device, as Linux names it."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == number), None)
