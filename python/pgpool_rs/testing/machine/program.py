"""The program that shows a failure: it can be pasted into a file and run."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import operator
import re
import symtable
import sys
from pathlib import Path
from types import CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from pgpool_rs._secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable


def written(machine: type[Any], factory: Callable[..., Any], promises: dict[str, Any], steps: list[str]) -> str:
    """Write the program that makes a machine over a factory's pools and does these steps."""
    names = _Names()
    made = f"{names.of(machine, 'PoolMachine')}.replay"
    given = [names.of(factory, "make_pool"), *(f"{name}={_shown(value)}" for name, value in promises.items())]
    call = f"machine = {made}({', '.join(given)})"
    return "\n".join([_masked("\n".join([*names.lines(), call])), *steps])


class _Names:
    """Collects the definitions that a program needs, imports among them."""

    def __init__(self) -> None:
        self._definitions: dict[str, str] = {}
        # Functions that are being written: one may call itself.
        self._begun: list[Any] = []

    def lines(self) -> list[str]:
        """Give the imports, a blank line, and the other definitions."""
        texts = self._definitions.values()
        imports = [text for text in texts if text.startswith(("import ", "from "))]
        others = [text for text in texts if text not in imports]
        return [*sorted(imports, key=lambda line: ("__future__" not in line, line)), "", *others]

    def of(self, thing: Any, name: str) -> str:
        """Give an expression for a thing, which is called by this name if it must be defined."""
        home = _home(thing)
        if home is not None:
            first = thing.__qualname__.partition(".")[0]
            self._add(first, f"from {home} import {first}")
            return str(thing.__qualname__)
        if _is_literal(thing):
            return repr(thing)
        if isinstance(thing, functools.partial):
            self._add("functools", "import functools")
            given = [self.of(thing.func, name)]
            given += [self.of(value, f"{name}_{place}") for place, value in enumerate(thing.args, 1)]
            given += [f"{key}={self.of(value, key)}" for key, value in thing.keywords.items()]
            return f"functools.partial({', '.join(given)})"
        if inspect.ismethod(thing):
            return f"{self.of(thing.__self__, name)}.{thing.__name__}"
        source = self._of_function(thing, name) if isinstance(thing, FunctionType) else None
        if source is not None:
            return source
        what = thing.__qualname__ if isinstance(thing, type | FunctionType) else f"{type(thing).__qualname__} object"
        self._add(name, f"{name} = ...  # to be filled in: {what}")
        return name

    def _of_function(self, function: FunctionType, name: str) -> str | None:
        node = _node(function)
        names = None if node is None else _free_names(ast.unparse(node))
        if names is None:
            return None
        name = getattr(node, "name", name)
        if function not in self._begun:
            self._begun.append(function)
            self._define_all(names, function)
            self._set_defaults(node.args, function)
            self._begun.pop()
            if isinstance(node, ast.Lambda):
                return ast.unparse(node)
            # What its annotations name need not be imported.
            self._add("annotations", "from __future__ import annotations")
            self._add(name, ast.unparse(node))
        return name

    def _define_all(self, names: list[str], function: FunctionType) -> None:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        # An empty cell: the variable has no value yet.
        enclosed = {name: cell.cell_contents for name, cell in cells if cell != CellType()}
        for name in names:
            if name in enclosed:
                self._define(name, enclosed[name], None)
            elif name in function.__globals__:
                self._define(name, function.__globals__[name], _module(function))

    def _set_defaults(self, given: ast.arguments, function: FunctionType) -> None:
        """Write the values of the defaults."""
        values = dict(function.__kwdefaults__ or {})
        places = [place.arg for place in (*given.posonlyargs, *given.args)]
        values |= zip(reversed(places), reversed(function.__defaults__ or ()), strict=False)
        defaults = {name: ast.parse(self.of(value, name), mode="eval").body for name, value in values.items()}
        given.defaults = [defaults[name] for name in places if name in defaults]
        given.kw_defaults = [defaults.get(place.arg) for place in given.kwonlyargs]

    def _define(self, name: str, value: Any, module: str | None) -> None:
        """Define a variable, which can be imported from this module. A text may be a secret: it is rather imported."""
        if isinstance(value, ModuleType):
            renamed = f" as {name}" if value.__name__ != name else ""
            self._add(name, f"import {value.__name__}{renamed}")
            return
        may_show = _is_literal(value) and not {"'", '"'} & {*repr(value)}
        if module and _home(value) is None and not may_show:
            self._add(name, f"from {module} import {name}")
        else:
            said = self.of(value, name)
            if said != name:
                self._add(name, f"{name} = {said}")

    def _add(self, name: str, text: str) -> None:
        if self._definitions.setdefault(name, text) != text:
            self._definitions[name] = f"{name} = ...  # to be filled in: it stands for several things"


def _home(thing: Any) -> str | None:
    """Name the outermost module from which a thing can be imported, if it can be."""
    try:
        names = thing.__module__.split(".")
        for size in range(1, len(names) + 1):
            module = importlib.import_module(".".join(names[:size]))
            with contextlib.suppress(AttributeError):
                if operator.attrgetter(thing.__qualname__)(module) == thing:
                    return Path(inspect.getfile(thing)).stem if names == ["__main__"] else module.__name__
    except (AttributeError, ImportError, TypeError, OSError):
        pass
    return None


def _module(function: FunctionType) -> str | None:
    """Name the module from which a function's global variables can be imported, if they can be."""
    name = function.__module__
    if vars(sys.modules.get(name, object)) is not function.__globals__:
        return None
    return Path(function.__code__.co_filename).stem if name == "__main__" else name


def _node(function: FunctionType) -> Any:
    """Find a function in its source, without decorators and defaults; None if it is not there, or cannot be told."""
    code, found = function.__code__, []
    try:
        tree: Any = ast.parse("".join(inspect.findsource(code)[0]))
    except (OSError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            decorators = getattr(node, "decorator_list", [])
            line = min(part.lineno for part in (node, *decorators))
            if (getattr(node, "name", "<lambda>"), line) == (code.co_name, code.co_firstlineno):
                decorators.clear()
                found.append(node)
    if len(found) > 1:
        places = set(getattr(code, "co_positions", tuple)())  # Python 3.10 has none
        ends = operator.attrgetter("lineno", "end_lineno", "col_offset", "end_col_offset")
        found = [node for node in found if ends(node.body) in places]
    if len(found) != 1:
        return None
    given = found[0].args
    given.defaults, given.kw_defaults = [], [None] * len(given.kwonlyargs)
    return found[0]


def _free_names(source: str) -> list[str] | None:
    """Name the variables that a function and those inside it take from outside; None if it cannot stand by itself."""
    try:
        tables = [symtable.symtable(f"from __future__ import annotations\n{source}", "<function>", "exec")]
    except SyntaxError:  # a nonlocal statement
        return None
    for table in tables:
        tables += table.get_children()
    symbols = [symbol for table in tables for symbol in table.get_symbols()]
    return list(dict.fromkeys(one.get_name() for one in symbols if one.is_global() and one.is_referenced()))


def _masked(program: str) -> str:
    """Mask passwords in the texts of a program.

    A text is known by the word before it, or before a use of its variable.
    """
    lines, shown = program.encode().split(b"\n"), dict[str, str]()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            before = re.split(r"[,([{]", lines[node.lineno - 1][: node.col_offset].decode())[-1].strip()
            if variable := re.fullmatch(r"([\w.]+) =", before):
                uses = re.findall(rf"(\w+)\W+{re.escape(variable[1])}\b", program)
                before = " ".join([before, *uses])
            text = ast.get_source_segment(program, node) or ""
            shown[text] = mask(shown.get(text, text), (), {before: node.value})
    for text, masked in shown.items():
        program = program.replace(text, masked)
    return program


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (TypeError, ValueError, SyntaxError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(map(repr, sorted(value)))}}}" if value else "()"
    return repr(value)
