"""The command `python -m pgpool_rs`. The rest of the package does not import it."""

from __future__ import annotations

import argparse
import difflib
import io
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from pgpool_rs import __version__
from pgpool_rs._command import check, doctor, exporter, size, top
from pgpool_rs._command.answer import Failed, hide

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "doctor": (doctor, "compare the server with what pools ask of it"),
    "size": (size, "find how many connections a rate of requests needs, by simulation"),
    "check": (check, "make one loan, and time each step"),
    "top": (top, "show the pools of all processes of this host, live"),
    "exporter": (exporter, "serve the figures of all processes of this host to Prometheus"),
}


def _wrong(words: Sequence[str], command: argparse.ArgumentParser) -> str:
    """Say what is wrong with the words that a command does not take, and show none of them."""
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not options:
        return "too many arguments: a connection string with spaces needs quotes"
    near = difflib.get_close_matches(options[0], command._option_string_actions, n=1)
    return f"no such option: did you mean {near[0]}?" if near else "no such option"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status: 1 if it has found something or failed."""
    words = sys.argv[1:] if argv is None else argv

    class Parser(argparse.ArgumentParser):
        # argparse prints the words that it cannot use. They may be a connection string, with a password, or a part.
        def error(self, message: str) -> NoReturn:
            super().error(hide(message, words))

    parser = Parser(
        prog="python -m pgpool_rs",
        description="Look at a server and at the pools of this host, and choose the size of a pool.",
        epilog="exit status: 0, 1 if something was found or failed, 2 for wrong arguments",
    )
    parser.add_argument("--version", action="version", version=f"pgpool_rs {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=module.run, parser=command)
    if re.search("=|://", next((word for word in words if not word.startswith("-")), "")):
        parser.error(f"a command comes before the connection string: {', '.join(_COMMANDS)}")
    args, rest = parser.parse_known_args(words)
    if rest:
        args.parser.error(_wrong(rest, args.parser))
    # What the pool would log stands in the answer.
    logging.getLogger("pgpool_rs").addHandler(logging.NullHandler())
    # What a server says may have characters that the output's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        answer = args.run(args)
    except Failed as failed:
        text = hide(str(failed), words)
        if args.json:
            print(json.dumps({"error": text}))
        else:
            print(f"pgpool_rs: {text}", file=sys.stderr)
        return failed.status
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(json.dumps(answer.data, indent=2))
    else:
        answer.show()
    return 0 if answer.is_well else 1
