from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pgpool_rs import __version__
from pgpool_rs._command import _COMMANDS, main, size
from pgpool_rs._command.answer import Answer, Table

SECRET = "open-sesame"
TABLE = Table(("severity", ">number", "note"), [("ok", "7", "one two " * 20), ("[error]", "12", "long")])


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let standard output be a terminal."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)


def test_plain_text_is_aligned_and_long_cells_go_on_below(capsys: pytest.CaptureFixture[str]) -> None:
    Answer({}, ["before", TABLE]).show()
    before, blank, *lines = capsys.readouterr().out.splitlines()
    assert (before, blank, lines[0]) == ("before", "", "severity  number  note")
    assert lines[1].startswith("ok             7  one two one")
    assert lines[2].startswith(" " * 18 + "one two")
    assert lines[-1] == "[error]       12  long"
    assert max(map(len, lines)) <= 110


def test_on_a_terminal_rich_draws_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch)
    Answer({}, [TABLE]).show()
    shown = capsys.readouterr().out
    assert "┃" in shown
    # It is no markup.
    assert "[error]" in shown


def test_without_rich_a_terminal_gets_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich", None)
    Answer({}, [TABLE]).show()
    assert capsys.readouterr().out.startswith("severity  number  note\n")


def test_the_package_does_not_import_its_command() -> None:
    program = "import pgpool_rs, sys; print([name for name in sys.modules if '_command' in name or name == 'argparse'])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--version"], 0, f"pgpool_rs {__version__}\n"),
        (["--help"], 0, "exit status: 0, 1 if something was found or failed, 2 for wrong arguments"),
        (["doctor", "--help"], 0, "Compare the server with what pools ask of it."),
        (["size", "--help"], 0, "Find how many connections a rate of requests needs, by simulation."),
        (["check", "--help"], 0, "Make one loan, and time each step."),
        (["top", "--help"], 0, "Show the pools of all processes of this host, live."),
        (["exporter", "--help"], 0, "Serve the figures of all processes of this host to Prometheus."),
        ([], 2, "the following arguments are required: COMMAND"),
        (["docter"], 2, "invalid choice: 'docter'"),
        (["doctor", "host=h", f"password={SECRET}"], 2, "doctor: error: too many arguments: a connection string with"),
        ([f"host=h password={SECRET}"], 2, "a command comes before the connection string: doctor, size, check"),
        (["--json", f"postgresql://u:{SECRET}@h"], 2, "a command comes before the connection string"),
        (["doctor", "--hots", "3"], 2, "doctor: error: no such option: did you mean --hosts?"),
        (["check", "--verbose", f"--password={SECRET}"], 2, "check: error: no such option\n"),
        (["doctor", "--hosts", "0"], 2, "--hosts: must be a whole number, 1 or more, not '0'"),
        (["doctor", "--max-idle", "-1"], 2, "--max-idle: must be a number, 0 or more, not '-1'"),
    ],
)
def test_the_exit_status_tells_a_wrong_usage(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == status
    captured = capsys.readouterr()
    assert said in " ".join((captured.out + captured.err).split(" "))
    assert SECRET not in captured.err


# What each command needs beside the option, so that it neither fails before nor goes on.
BESIDE = {
    "size": ["--rate", "9", "--hold", "0.1", "--wait", "1", "--requests", "100"],
    "top": ["--once"],
    "exporter": ["--port", "99999"],
}


CONNECTION_STRINGS = [
    f"postgres://u:{SECRET}@h/db",
    f"postgres://u:{SECRET}/word@h/db",
    f"postgresql+psycopg2://u:{SECRET}@h/db",
    f"u:{SECRET}@h/db",
    f"host=h password={SECRET}",
    f"password='{SECRET}",
]


def places() -> Iterator[list[str]]:
    """Give each place of a command line that takes a word, beside the connection string's own."""
    yield []
    for name, (module, _) in _COMMANDS.items():
        parser = argparse.ArgumentParser(add_help=False)
        module.add_arguments(parser)
        for action in parser._actions:
            yield from ([name, *BESIDE.get(name, []), option] for option in action.option_strings)


@pytest.mark.parametrize("place", list(places()), ids=" ".join)
def test_no_secret_is_shown_wherever_a_connection_string_slips_in(
    place: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # --plot makes a file.
    for text in CONNECTION_STRINGS:
        joined = [*place[:-1], f"{place[-1]}{'=' * place[-1].startswith('--')}{text}"] if place else [text]
        for words in ([*place, text, "--json"], joined):
            with suppress(SystemExit):
                main(words)
            captured = capsys.readouterr()
            assert SECRET not in captured.out + captured.err, words


def test_an_option_and_a_word_that_is_no_secret_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", f"--maxconn=postgres://shop:{SECRET}@h/db"])
    said = "argument --maxconn: must be a whole number, 1 or more, not 'postgres://shop:***@h/db'"
    assert said in capsys.readouterr().err


def test_what_the_output_cannot_show_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(size, "run", lambda _: Answer({}, ["слишком много", Table(("a",), [("é",)])]))
    assert main(["size", "--rate", "1", "--hold", "1", "--wait", "1"]) == 0
    shown.seek(0)
    assert shown.read() == "??????? ?????\n\na\n?\n"


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(size, "simulate", interrupted)
    assert main(["size", "--rate", "1", "--hold", "1", "--wait", "1", "--requests", "10"]) == 130
    assert capsys.readouterr() == ("", "")
