"""The folder in which the processes of this host publish their pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgpool_rs._command.answer import Failed
from pgpool_rs._limits.folder import folder

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def add_folder(command: argparse.ArgumentParser) -> None:
    """Add the argument that names the folder."""
    command.add_argument("--folder", help="where the processes publish, if not in the user's own folder")


def folder_of(args: argparse.Namespace) -> Path:
    """Return the folder.

    :raises Failed: it cannot be used.
    """
    try:
        return folder(args.folder)
    except OSError as error:
        raise Failed(str(error)) from None
