"""The program that shows a failure: it can be pasted into a file and run."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import operator
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def written(machine: type[Any], factory: Callable[..., Any], promises: dict[str, Any], steps: list[str]) -> str:
    """Write the program that makes a machine over a factory's pools and does these steps."""
    names = _Names()
    made = f"{names.of(machine, 'PoolMachine')}.replay"
    given = [names.of(factory, "make_pool"), *(f"{name}={_shown(value)}" for name, value in promises.items())]
    call = f"machine = {made}({', '.join(given)})"
    imports = sorted(names.imports, key=lambda line: ("__future__" not in line, line))
    return "\n".join([*imports, "", *names.definitions, call, *steps])


class _Names:
    """Collects the imports and the definitions that a program needs."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.definitions: list[str] = []
        self._known: set[str] = set()

    def of(self, thing: Any, name: str) -> str:
        """Give an expression for a thing, which is called by this name if it must be defined."""
        home = _home(thing)
        if home is not None:
            self.imports.add(f"from {home} import {thing.__qualname__.partition('.')[0]}")
            return str(thing.__qualname__)
        if inspect.isfunction(thing):
            source = _source(thing)
            if source is not None:
                variables = inspect.getclosurevars(thing)
                for used, value in {**variables.globals, **variables.nonlocals}.items():
                    self._define(used, value)
                if thing.__name__ == "<lambda>":
                    return source
                # What its annotations name need not be imported.
                self.imports.add("from __future__ import annotations")
                self.definitions.append(source)
                return thing.__name__
        self.definitions.append(f"{name} = ...  # to be filled in: what was {thing!r}")
        return name

    def _define(self, name: str, value: Any) -> None:
        if name in self._known:
            return
        self._known.add(name)
        if isinstance(value, ModuleType):
            self.imports.add(f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else ""))
        elif _is_literal(value):
            self.definitions.append(f"{name} = {value!r}")
        else:
            said = self.of(value, name)
            if said != name:
                self.definitions.append(f"{name} = {said}")


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


def _source(function: Any) -> str | None:
    """Find the source of a function that is local, or a lambda; None if there is none, or more than one may be it."""
    try:
        if function.__name__ != "<lambda>":
            return textwrap.dedent(inspect.getsource(function))
        text = "".join(inspect.findsource(function)[0])
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda)]
    except (OSError, SyntaxError):
        return None
    found = [node for node in nodes if node.lineno == function.__code__.co_firstlineno]
    return ast.get_source_segment(text, found[0]) if len(found) == 1 else None


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(map(repr, sorted(value)))}}}" if value else "()"
    return repr(value)
