"""Every place in the binding from which Python code may run, and the callbacks, or the reason why there are none.

`places()` reads them from the sources: the function, and what it does to a Python object there. A place that is new, or
does something more, is not in the table, and test_proof_table.py says so.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "rust" / "binding" / "src"

_DOES = re.compile(
    r"\.(is_truthy|eq|ne|lt|gt|le|ge|rich_compare|hash|repr|str|extract|call0|call1|call|call_method0|call_method1"
    r"|call_method|getattr_opt|getattr|setattr|delattr|hasattr|import|try_iter|get_item|set_item|del_item|contains|update"
    r"|is_instance|is_subclass|upgrade|write_unraisable)\b\s*(?:::<[^(]*>)?\("
)
_NAME = re.compile(r"^    (\w+) = \"(\w[\w.]*)\",$", re.MULTILINE)


def places() -> dict[str, str]:
    """List the places as `file.function`, with what is done there, in order of the alphabet, and how often."""
    found: dict[str, Counter[str]] = {}
    for source in sorted(SOURCES.glob("*.rs")):
        function = ""
        for line in source.read_text().splitlines():
            code = line.partition("//")[0]
            begun = re.search(r"\bfn (\w+)", code)
            function = begun[1] if begun else function
            for does in _DOES.findall(code):
                found.setdefault(f"{source.stem}.{function}", Counter())[does] += 1
    return {
        place: " ".join(does if number == 1 else f"{does}*{number}" for does, number in sorted(counts.items()))
        for place, counts in found.items()
    }


def names() -> set[str]:
    """List the names that Python objects are asked for."""
    return {text for _, text in _NAME.findall((SOURCES / "names.rs").read_text())}


OURS = "a module, class or object of ours, which runs no code of others"
CPYTHONS = "an object of CPython's own, written in C"
PSYCOPG2S = "an attribute of a module of psycopg2's"
ACCOUNTS = "what differs between the two accounts of a transaction: tests/test_swallowing.py strikes it there"
RUSTS = "a Rust method of the same name"
START = "done once, while the package is imported"

# The place; what is done there; the callbacks that are made, named as in callback_sites.py, or why there are none.
PLACES: dict[str, tuple[str, tuple[str, ...] | str]] = {
    "books.key_of": ("extract", ("ident.__index__",)),
    "borrow.file": ("call_method0", ("_getkey",)),
    "borrow.open": ("call_method1", ("_connect",)),
    "check.ask": ("call1", ("check",)),
    "check.check_socket": ("call_method0", ("poll",)),
    "check.descriptor": ("call0 extract getattr", ("fileno",)),
    "check.learn": ("contains extract getattr*2 import is_instance", ("pgcode",)),
    "check.ends_the_session": ("contains extract getattr*2", ("diag", "severity_nonlocalized")),
    "check.takes_no_writes": ("call_method1 extract getattr", ("parameter_status",)),
    "connection.close": ("call_method0 hasattr", ("close",)),
    "connection.commit": ("call_method0", ("commit",)),
    "connection.connect": ("call getattr*3 import try_iter update", ("connect", "_args", "_kwargs")),
    "connection.end_in_sql": ("call_method1 getattr_opt is_truthy setattr*2", ACCOUNTS),
    "connection.is_async": ("extract getattr_opt", ("async_",)),
    "connection.leave_clean": ("call1", ("configure", "reset")),
    "connection.living": ("call0", CPYTHONS),
    "connection.look_at": (
        "eq*3 extract getattr*3 is_truthy",
        ("closed", "closed.__bool__", "closed.__eq__", "info.transaction_status"),
    ),
    "connection.plain_cursor": ("call0 call1 getattr*2 getattr_opt import is_subclass", ACCOUNTS),
    "connection.psycopg2_status": ("extract getattr_opt", ACCOUNTS),
    "connection.rollback": ("call_method0", ("rollback",)),
    "detours.find": ("contains getattr*2", OURS),
    "detours.is_get_ident_native": ("eq getattr*2 import", "what threading.get_ident is, not what it does"),
    "error.error": ("import", START),
    "error.keep_back": ("write_unraisable", ("waiting lock: release",)),
    "error.prepare": ("import*2", START),
    "error.is_said": ("is_instance*2", CPYTHONS),
    "error.psycopg2_error": ("getattr import", PSYCOPG2S),
    "error.says": ("getattr*2 import*2", START),
    "filing.automatic_key": ("import", START),
    "filing.caller": ("call_method0 extract import", ("threading.get_ident",)),
    "filing.compare": ("eq", ("key.__eq__",)),
    "filing.number_to_key": ("call1", OURS),
    "filing.under": ("extract hash", ("key.__hash__",)),
    "front.door": ("extract*2 getattr*3 setattr", START),
    "front.find": (
        "extract getattr*4 import",
        "classes of connections are asked once a pool; one whose metaclass raises there is asked the long way",
    ),
    "front.front_door": ("getattr", START),
    "front.function_of": ("getattr", START),
    "front.offset_of": ("getattr", START),
    "front.traverse": ("call", RUSTS),
    "give_back.begin": ("repr*2", ("key.__repr__",)),
    "front.interrupted": ("call1", ("close",)),
    "given.kind": ("contains", RUSTS),
    "given.shown": ("contains repr", ("timeout.__repr__",)),
    "given.whole": ("call1", ("minconn.__int__", "maxconn.__int__")),
    "loan.__getattr__": ("getattr hasattr import", PSYCOPG2S),
    "loan.__exit__": ("call_method1", ("putconn",)),
    "loan.__traverse__": ("call", RUSTS),
    "loan.get": ("call_method", ("getconn",)),
    "log.describe": ("str", ("str(error)",)),
    "log.describe_public": ("contains getattr import is_instance", PSYCOPG2S),
    "log.log": ("call_method1*2 import", ("log handler", "log filter")),
    "log.masked": ("call_method1 extract getattr*2 import", ("_kwargs",)),
    "log.place": ("getattr*6", CPYTHONS),
    "maintain.housekeeping": ("import", START),
    "maintain.do_chores": ("call_method0", ("_connect",)),
    "maintain.poke": ("call_method1", OURS),
    "maintain.poke_quietly": ("call_method1", OURS),
    "maintain.wait": ("call_method1 import", ("time.sleep",)),
    "notes.annotate": ("call1", OURS),
    "notes.annotate_function": ("import", START),
    "options.into_options": ("getattr import", OURS),
    "options.traverse": ("call", RUSTS),
    "pool.__exit__": ("call_method0", ("closeall",)),
    "pool.__traverse__": ("call", RUSTS),
    "pool.extract": ("is_truthy", ("close.__bool__", "closed.__bool__")),
    "start.close_last": ("hasattr", ("close",)),
    "pool.shown_name": ("repr", CPYTHONS),
    "pool.__repr__": ("repr", CPYTHONS),
    "pool.size": ("extract lt", CPYTHONS),
    "start.start": ("call_method0 call_method1 import", ("connect", "configure")),
    "stats.to_dict": ("set_item*3", CPYTHONS),
    "system.advance_clock": ("contains", RUSTS),
    "threaded.closeall": ("call_method0", ("_closeall",)),
    "threaded.getconn": ("call_method", ("_getconn",)),
    "threaded.putconn": ("call_method1 is_truthy", ("_putconn", "close.__bool__")),
    "timeout.extract": ("extract*2 gt", ("timeout.__float__",)),
    "timeout.new": ("call_method0*2 import", ("waiting lock: threading.Lock()", "waiting lock: acquire first")),
    "timeout.wait": ("call_method0 call_method1 extract getattr import is_truthy*2", ("waiting lock: acquire",)),
    "timeout.wake": ("call_method0 upgrade", ("waiting lock: release",)),
    "watch.__call__": ("upgrade", CPYTHONS),
    "watch.describe_loan": ("call_method1 extract import", ("key.__repr__",)),
    "watch.get_frame": ("getattr import", START),
    "watch.loan_info": ("call_method1 import", OURS),
    "watch.is_whole": ("getattr hasattr import is_subclass", "what a class has, not what it does"),
    "watch.record": ("call0 getattr*2 import", CPYTHONS),
}

# What runs Python without a call that could be found in the sources.
UNSEEN: dict[str, str] = {
    "__del__ of a connection": "the last handle of a connection is dropped",
    "key.__del__": "the last handle of a key is dropped",
    "_keys.__index__": "an argument is converted",
    "execute": "reset='discard' is Python of ours that calls the connection",
    "sort key": "_pool is Python of ours",
}

# The names that objects are asked for, and the callbacks that this makes, or why it makes none.
NAMES: dict[str, tuple[str, ...] | str] = {
    "Error": PSYCOPG2S,
    "Lock": ("waiting lock: threading.Lock()",),
    "TIMEOUT_MAX": CPYTHONS,
    "_args": ("_args",),
    "_closeall": ("_closeall",),
    "_connect": ("_connect",),
    "_getconn": ("_getconn",),
    "_getkey": ("_getkey",),
    "_kwargs": ("_kwargs",),
    "_putconn": ("_putconn",),
    "_pgpool_close": ("close",),
    "_pgpool_whole": "what a class has, not what it does",
    "acquire": ("waiting lock: acquire", "waiting lock: acquire first"),
    "async_": ("async_",),
    "autocommit": ACCOUNTS,
    "close": ("close",),
    "closeall": ("closeall",),
    "closed": ("closed",),
    "commit": ("commit",),
    "connect": ("connect",),
    "connection": PSYCOPG2S,
    "diag": ("diag",),
    "cursor": ACCOUNTS,
    "execute": ACCOUNTS,
    "f_lasti": CPYTHONS,
    "fileno": ("fileno",),
    "get_ident": ("threading.get_ident",),
    "getconn": ("getconn",),
    "info": ("info.transaction_status",),
    "log": ("log handler", "log filter"),
    "parameter_status": ("parameter_status",),
    "pgcode": ("pgcode",),
    "pgpool_rs._loans": OURS,
    "poke": OURS,
    "poke_quietly": OURS,
    "poll": ("poll",),
    "psycopg2": PSYCOPG2S,
    "psycopg2.extensions": PSYCOPG2S,
    "putconn": ("putconn",),
    "release": ("waiting lock: release",),
    "rollback": ("rollback",),
    "severity_nonlocalized": ("severity_nonlocalized",),
    "sleep": ("time.sleep",),
    "status": ACCOUNTS,
    "threading": CPYTHONS,
    "time": CPYTHONS,
    "transaction_status": ("info.transaction_status",),
}
