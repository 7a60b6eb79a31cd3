"""PoolMachine: random programs on any pool, and what must hold after each step."""

from __future__ import annotations

__tracebackhide__ = True

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky, FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from pgpool_rs.testing.fake.server import FakeServer
from pgpool_rs.testing.machine.driver import Driver
from pgpool_rs.testing.machine.invariant import BrokenInvariant
from pgpool_rs.testing.machine.judge import Patience
from pgpool_rs.testing.machine.promises import Promises
from pgpool_rs.testing.machine.rules_leaving import LeavingRules
from pgpool_rs.testing.machine.rules_pool import PoolRules
from pgpool_rs.testing.machine.rules_threads import OverlappingRules
from pgpool_rs.testing.machine.shrink import shrink

if TYPE_CHECKING:
    import unittest
    from collections.abc import Callable

# The program is shrunk here; and which lines of the machine only a failure runs is no news.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

# How often to begin again with a pool that does not do the same each time.
_ATTEMPTS = 10


class PoolMachine(OverlappingRules, LeavingRules, PoolRules):
    """Does to a pool whatever borrowers, servers and time do, and looks at every invariant after each step.

    `PoolMachine.over(factory, maxconn=...)` makes a test of it. A subclass may have rules of its own: it says in
    `promises` what its pool promises, makes one in `make_pool`, and `Subclass.TestCase` is the test.
    """

    promises: ClassVar[Promises]
    # What `replay` was given, or would be, to make this machine: the class, the factory, the promises.
    replayed: ClassVar[tuple[type[PoolMachine], Callable[[FakeServer], Any], dict[str, Any]] | None] = None
    _patience: ClassVar[Patience]
    _known: ClassVar[dict[type, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let each machine learn by itself how patient to be, and what its pools can do."""
        super().__init_subclass__(**kwargs)
        cls._patience = Patience()
        cls._known = {}

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._ending = ExitStack()
        server = self._ending.enter_context(FakeServer().installed())
        self.driver = Driver(server, self.promises, self._patience, self._known)
        try:
            self.driver.make(self.make_pool)
        except BaseException:
            self._ending.close()
            raise

    def _end(self) -> None:
        try:
            # An error that is under way must not give way to what follows from it.
            if sys.exc_info()[1] is None:
                if self.broken is not None:
                    raise self.broken
                try:
                    self.driver.end()
                except BrokenInvariant:
                    type(self).failed_steps = self.steps
                    raise
        finally:
            self.driver.let_go()
            self._ending.close()

    @property
    def pool(self) -> Any:
        """Return the pool under test, for rules of a subclass."""
        return self.driver.pool

    def make_pool(self, server: FakeServer) -> Any:
        """Make the pool under test: a subclass does. `psycopg2.connect` is the server's as well."""
        raise NotImplementedError(f"{type(self).__name__} needs a make_pool(self, server)")

    def teardown(self) -> None:
        """Let everything end, give all back, and see that the whole pool can be lent, and closed."""
        self._end()

    @classmethod
    def replay(
        cls, factory: Callable[[FakeServer], Any], *, maxconn: int, minconn: int = 0, **promises: Any
    ) -> PoolMachine:
        """Return a machine that does the steps that are called, as the program does that a failure prints.

        What a step breaks is raised by `teardown()`, or at once if a call hangs. The arguments are those of `over`.
        """
        return cls._made_of(factory, maxconn, minconn, promises)()

    @classmethod
    def _made_of(
        cls, factory: Callable[[FakeServer], Any], maxconn: int, minconn: int, promises: dict[str, Any]
    ) -> type[PoolMachine]:
        given = {"maxconn": maxconn, **({"minconn": minconn} if minconn else {}), **promises}
        return type(
            cls.__name__,
            (cls,),
            {
                "__doc__": cls.__doc__,
                "__module__": getattr(factory, "__module__", cls.__module__),
                "promises": Promises(**given),
                "replayed": (cls, factory, given),
                "make_pool": lambda _, server: factory(server),
            },
        )

    @classmethod
    def over(
        cls, factory: Callable[[FakeServer], Any], *, maxconn: int, minconn: int = 0, **promises: Any
    ) -> type[unittest.TestCase]:
        """Return a test of the pools that a factory makes: a unittest.TestCase, which pytest and unittest collect.

        :param factory: is called with the server, and makes a pool. It may give it `connect=server.connect`, or leave
            it to `psycopg2.connect`, in whose place the server stands meanwhile.
        :param maxconn: how many connections the pool has at most.
        :param minconn: how many idle ones it keeps.
        :param promises: what else the pool promises, as `Promises` has it; `spare` and `waive` name what it does not.
        :raises TypeError: a promise is unknown, or of a wrong type.
        :raises ValueError: a promise is out of its range.

        `TestMyPool.settings = settings(TestMyPool.settings, max_examples=1000)` lets hypothesis try harder.
        """
        machine: Any = cls._made_of(factory, maxconn, minconn, promises)
        module = machine.__module__
        name = f"{cls.__name__}Test"

        def run_test(self: Any) -> None:
            found: BaseException | None = None
            for _ in range(_ATTEMPTS):
                machine.failed_steps = None
                try:
                    return run_state_machine_as_test(machine, settings=self.settings)
                except BrokenInvariant as failure:
                    found = failure
                    break
                except Flaky as failure:
                    # A pool with a thread of its own, or with dice, does not do the same each time: that alone is no
                    # failure, and another try may do.
                    found = failure
                    if machine.failed_steps is not None or not isinstance(failure, FlakyStrategyDefinition):
                        break
            if found is None:
                raise AssertionError("no try was made")
            # Outside of the block: a program's end looks whether an error is under way.
            if machine.failed_steps is not None:
                found = shrink(machine, found)
                if isinstance(found, BrokenInvariant) and found.program is not None:
                    print(found.program)  # noqa: T201  not in the error's text, which pytest indents
            raise found

        run_test.is_hypothesis_test = True  # type: ignore[attr-defined]
        return type(
            name,
            (machine.TestCase,),
            {
                "__doc__": f"Random programs on a pool of at most {maxconn} connections.",
                "__module__": module,
                "__qualname__": name,
                "runTest": run_test,
                "settings": settings(
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    phases=_PHASES,
                    report_multiple_bugs=False,
                    stateful_step_count=30,
                ),
            },
        )
