"""Every place in the binding from which Python code may run, and the callbacks, or the reason why there are none.

`places()` reads them from the sources: the function, and what it does to a Python object there. A place that is new, or
does something more, is not in the table, and test_table.py says so.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "rust" / "binding" / "src"

_DOES = re.compile(
    r"\.(is_truthy|eq|ne|lt|gt|le|ge|rich_compare|hash|repr|str|extract|call0|call1|call|call_method0|call_method1"
    r"|call_method|getattr_opt|getattr|setattr|delattr|hasattr|import|try_iter|get_item|set_item|del_item|contains|update"
    r"|is_instance|is_subclass|upgrade|write_unraisable)\b\s*(?:::<[^(]*>)?\("
)
_NAME = re.compile(r"^    (\w+) = \"(\w[\w.]*)\",$", re.MULTILINE)


def places() -> dict[str, str]:
    """List the places as `file.function`, with what is done there, in order of the alphabet, and how often."""
    found: dict[str, Counter[str]] = {}
    for source in sorted(SOURCES.rglob("*.rs")):
        function, module = "", source.stem if source.stem != "mod" else source.parent.name
        for line in source.read_text().splitlines():
            code = line.partition("//")[0]
            begun = re.search(r"\bfn (\w+)", code)
            function = begun[1] if begun else function
            for does in _DOES.findall(code):
                found.setdefault(f"{module}.{function}", Counter())[does] += 1
    return {
        place: " ".join(does if number == 1 else f"{does}*{number}" for does, number in sorted(counts.items()))
        for place, counts in found.items()
    }


def names() -> set[str]:
    """List the names that Python objects are asked for."""
    return {text for _, text in _NAME.findall((SOURCES / "python.rs").read_text())}


OURS = "a module, class or object of ours, which runs no code of others"
CPYTHONS = "an object of CPython's own, written in C"
PSYCOPG2S = "an attribute of a module of psycopg2's"
ACCOUNTS = "what differs between the two accounts of a transaction: tests/postgres/test_swallowing.py strikes it there"
RUSTS = "a Rust method of the same name"
ARGUMENT = "the name of an argument"
START = "done once, while the package is imported"

# The place; what is done there; the callbacks that are made, named as in sites.py, or why there are none.
PLACES: dict[str, tuple[str, tuple[str, ...] | str]] = {
    "arguments.extract": ("extract*2 gt is_truthy", ("close.__bool__", "closed.__bool__", "timeout.__float__")),
    "arguments.kind_of": ("contains", RUSTS),
    "arguments.shown": ("contains", RUSTS),
    "arguments.size": ("extract lt", CPYTHONS),
    "arguments.whole": ("call1", ("minconn.__int__", "maxconn.__int__")),
    "blocks.return_once": ("contains", RUSTS),
    "borrow.open": ("call_method1", ("_connect",)),
    "borrow.want_of": ("call_method0", ("_getkey",)),
    "call.defer": ("write_unraisable", ("waiting lock: release",)),
    "call.write": ("call1", ("log handler", "log filter")),
    "caller.caller": ("call0 extract", ("threading.get_ident",)),
    "caller.get_ident": ("get_item getattr", "what threading.get_ident is, not what it does"),
    "caller.is_native": ("eq getattr", CPYTHONS),
    "check.ask": ("call1", ("check",)),
    "check.check_socket": ("call_method0", ("poll",)),
    "check.descriptor": ("call0 extract getattr", ("fileno",)),
    "check.ends_the_session": ("contains extract getattr*2", ("diag", "severity_nonlocalized", "severity")),
    "check.leave_clean": ("call1", ("configure", "reset")),
    "check.learn": ("contains extract getattr is_instance", ("pgcode",)),
    "check.reported": ("call_method1 extract getattr", ("parameter_status",)),
    "check.takes_no_writes": ("getattr_opt", ("readonly",)),
    "connection.close": ("call_method0", ("close",)),
    "connection.close_for_good": ("call_method0", ("close",)),
    "connection.commit": ("call_method0", ("commit",)),
    "connection.connect": ("call getattr*3 try_iter update", ("connect", "_args", "_kwargs")),
    "connection.end_in_sql": ("call_method1 getattr_opt is_truthy setattr*2", ACCOUNTS),
    "connection.is_async": ("extract getattr_opt", ("async_",)),
    "connection.is_closed_properly": ("eq getattr_opt", ("closed", "closed.__eq__")),
    "connection.look_at": (
        "eq*3 extract getattr*3 is_truthy",
        ("closed", "closed.__bool__", "closed.__eq__", "info.transaction_status"),
    ),
    "connection.plain_cursor": ("call0 call1 getattr_opt is_subclass", ACCOUNTS),
    "connection.psycopg2_status": ("extract getattr_opt", ACCOUNTS),
    "connection.rollback": ("call_method0", ("rollback",)),
    "error.is_database_error": ("is_instance", PSYCOPG2S),
    "error.is_pool_closed": ("is_instance", OURS),
    "error.is_pool_exhausted": ("is_instance", OURS),
    "error.new_error": ("call1", "a class of exceptions of ours, or of psycopg2's"),
    "fast_path.fast_path": ("getattr", START),
    "fast_path.put_before": ("extract*2 getattr*3 setattr", START),
    "grow.connect": ("call_method0", ("_connect",)),
    "grow.work": ("write_unraisable", OURS),
    "grow.is_refusal": ("is_instance", OURS),
    "handle.living": ("upgrade", CPYTHONS),
    "keys.compare": ("eq", ("key.__eq__",)),
    "keys.is_plainly": ("eq", CPYTHONS),
    "keys.number_to_key": ("call1", OURS),
    "keys.user_key": ("hash", ("key.__hash__",)),
    "keys.want_for": ("extract", CPYTHONS),
    "leaks.__call__": ("upgrade", CPYTHONS),
    "leaks.describe_loan": ("call1", ("key.__repr__",)),
    "leaks.is_whole": ("hasattr is_subclass", "what a class has, not what it does"),
    "leaks.loan_info": ("call1", OURS),
    "leaks.record": ("call0 getattr", CPYTHONS),
    "leaks.weak_handle": ("upgrade", CPYTHONS),
    "limit.attach": ("call_method1", ("limit._attach",)),
    "limit.close": ("call1*2", OURS),
    "limit.leave_in_parent": ("call1", OURS),
    "limit.release": ("call_method1", ("limit._give",)),
    "limit.take": ("call_method1 is_truthy", ("limit._take",)),
    "limit.tell": ("upgrade", CPYTHONS),
    "limit.wants": ("call_method1", ("limit._wait",)),
    "lifecycle.close_last": ("hasattr", ("close",)),
    "lifecycle.fill": ("call1 call_method0", ("connect", "configure")),
    "open.copied": ("call1", OURS),
    "open.is_server_full": ("call1 is_instance is_truthy", OURS),
    "open.told_again": ("call1", OURS),
    "lifecycle.find_flags": ("contains getattr*3 getattr_opt", OURS),
    "log.describe_with_place": ("call1", OURS),
    "loan.__traverse__": ("call*2", RUSTS),
    "loan.abandon": ("write_unraisable", ("putconn", "rollback")),
    "loan.borrow": ("call_method", ("getconn",)),
    "loan.give_back": ("call_method1", ("putconn",)),
    "loan.no_attribute": ("hasattr", PSYCOPG2S),
    "log.describe": ("str", ("str(error)",)),
    "log.describe_public": ("contains is_instance", PSYCOPG2S),
    "log.line_of": ("call1 is_truthy", ("log level",)),
    "log.masked": ("call1 getattr*2", ("_kwargs",)),
    "log.speak": ("call0", ("log handler",)),
    "maintain.do_chore": ("call_method0", ("_connect",)),
    "maintain.if_free": ("call0 call_method call_method0 is_truthy", OURS),
    "maintain.open_one": ("call_method0", ("_connect",)),
    "maintain.sleep": ("call_method1", ("time.sleep",)),
    "methods.__exit__": ("call_method0", ("closeall",)),
    "methods.closeall": ("call_method0", ("_closeall",)),
    "methods.getconn": ("call_method", ("_getconn",)),
    "methods.putconn": ("call_method1 is_truthy", ("_putconn", "close.__bool__")),
    "news.note": ("call1", ("listener",)),
    "notes.annotate": ("call1", OURS),
    "notes.annotate_limited": ("call1", ("limit._holders",)),
    "options.traverse": ("call", RUSTS),
    "pool.is_being_cleared": ("upgrade", CPYTHONS),
    "pool.traverse": ("call", RUSTS),
    "probe.find": (
        "extract getattr*3",
        "classes of connections are asked once a pool; one whose metaclass raises there is asked the long way",
    ),
    "probe.function_of": ("getattr", START),
    "probe.offset_of": ("getattr", START),
    "probe.traverse": ("call", RUSTS),
    "python.by_name": ("call0 set_item", CPYTHONS),
    "python.getconn_kwargs": ("call0 set_item*2", CPYTHONS),
    "python.once": ("eq get_item getattr*2 set_item", START),
    "python.read": ("getattr", START),
    "returning.close": ("getattr upgrade", "an attribute of ours, and CPython's own"),
    "returning.return_to": ("call_method1", ("putconn",)),
    "stats.histogram": ("call1 set_item", OURS),
    "stats.histograms": ("set_item", CPYTHONS),
    "stats.to_dict": ("set_item*4", CPYTHONS),
    "system.advance_clock": ("contains", RUSTS),
    "text.repr_of": ("repr", ("timeout.__repr__",)),
    "text.text_of": ("call_method0 call_method1 extract", CPYTHONS),
    "vectorcall.call_putconn": ("is_truthy", ("close.__bool__",)),
    "vectorcall.fit": ("get_item", CPYTHONS),
    "vectorcall.is_plain_timeout": ("extract", CPYTHONS),
    "views.key_of": ("extract", ("ident.__index__",)),
    "wait.new": ("call_method0*2", ("waiting lock: threading.Lock()", "waiting lock: acquire first")),
    "wait.release": ("call_method0", ("waiting lock: release",)),
    "wait.tell_housekeeper": ("call_method1", OURS),
    "wait.wait": ("call_method0 call_method1 extract getattr is_truthy*2", ("waiting lock: acquire",)),
    "wait.start_worker": ("call1 is_truthy", OURS),
    "wait.wake": ("upgrade*2", CPYTHONS),
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
    "Lock": ("waiting lock: threading.Lock()",),
    "TIMEOUT_MAX": CPYTHONS,
    "_args": ("_args",),
    "_attach": ("limit._attach",),
    "_closeall": ("_closeall",),
    "_connect": ("_connect",),
    "_getconn": ("_getconn",),
    "_getkey": ("_getkey",),
    "_give": ("limit._give",),
    "_kwargs": ("_kwargs",),
    "_take": ("limit._take",),
    "_wait": ("limit._wait",),
    "_putconn": ("_putconn",),
    "_pgpool_home": OURS,
    "_pgpool_whole": "what a class has, not what it does",
    "acquire": ("waiting lock: acquire", "waiting lock: acquire first"),
    "async_": ("async_",),
    "autocommit": ACCOUNTS,
    "blocking": ARGUMENT,
    "close": ("close",),
    "closeall": ("closeall",),
    "closed": ("closed",),
    "commit": ("commit",),
    "connect": ("connect",),
    "diag": ("diag",),
    "cursor": ACCOUNTS,
    "end_visits": OURS,
    "execute": ACCOUNTS,
    "f_lasti": CPYTHONS,
    "fileno": ("fileno",),
    "get_ident": ("threading.get_ident",),
    "getconn": ("getconn",),
    "info": ("info.transaction_status",),
    "parameter_status": ("parameter_status",),
    "pgcode": ("pgcode",),
    "poke": OURS,
    "poke_quietly": OURS,
    "poll": ("poll",),
    "priority": ARGUMENT,
    "putconn": ("putconn",),
    "readonly": ("readonly",),
    "release": ("waiting lock: release",),
    "rollback": ("rollback",),
    "severity": ("severity",),
    "severity_nonlocalized": ("severity_nonlocalized",),
    "sleep": ("time.sleep",),
    "status": ACCOUNTS,
    "timeout": ARGUMENT,
    "transaction_status": ("info.transaction_status",),
}
