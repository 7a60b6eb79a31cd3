"""`manage.py pgpool`: show and drain the pools of all processes of this machine that serve this project."""

from __future__ import annotations

import os
import re
import signal
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.encoding import force_bytes

from pgpool_rs.django._control import ADDRESS

_SHOWN = "pool_size", "pool_max", "pool_available", "requests_waiting", "requests_num", "requests_errors"
_LINE = "{:>8} {:20}" + len(_SHOWN) * " {:>16}"


class Command(BaseCommand):
    """Ask each process."""

    help = "Show the pools of every process of this machine that serves this project."

    def add_arguments(self, parser: Any) -> None:
        """Add one flag."""
        parser.add_argument("--drain", action="store_true", help="replace every connection: what is lent, later")

    def handle(self, *_: Any, drain: bool, **__: Any) -> None:
        """Print a line for each pool.

        :raises CommandError: with --drain, no process has answered, or not every one; or this is not Linux.
        """
        if sys.platform != "linux":
            raise CommandError("this command needs Linux")
        self.stdout.write(_LINE.format("pid", "alias", *_SHOWN))
        signal.signal(signal.SIGALRM, _give_up)
        answered = silent = 0
        for pid in sorted(_listening() - {os.getpid()}):
            signal.alarm(5)
            try:
                with Client(f"{ADDRESS}{pid}", authkey=force_bytes(settings.SECRET_KEY)) as client:
                    client.send("drain" if drain else "show")
                    told = client.recv()
            except AuthenticationError:  # of another project
                continue
            except (OSError, EOFError) as error:
                if pid in _listening():  # Else it has ended, and its pools with it.
                    self.stderr.write(f"{pid:>8} {str(error) or 'breaks off'}")
                    silent += 1
                continue
            finally:
                signal.alarm(0)
            answered += 1
            for alias, stats in told.items():
                self.stdout.write(_LINE.format(pid, alias, *(stats[name] for name in _SHOWN)))
        if silent:
            text = f"{silent} of {answered + silent} processes do not answer"
        elif not answered:
            text = "no process of this machine answers: none serves this project, or none has used its database yet"
        else:
            return
        if drain:
            raise CommandError(text)
        self.stderr.write(text)


def _listening() -> set[int]:
    names = Path("/proc/net/unix").read_text()
    return {int(pid) for pid in re.findall(f"@{ADDRESS[1:]}([0-9]+)$", names, re.MULTILINE)}


def _give_up(*_: Any) -> None:
    raise TimeoutError("does not answer")
