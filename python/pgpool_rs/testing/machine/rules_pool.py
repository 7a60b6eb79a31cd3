"""The rules of a machine about the pool as a whole: its limits and its end, what lies idle in it, and time."""

from __future__ import annotations

__tracebackhide__ = True

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from pgpool_rs.testing.machine.rules import MOST, Rules, chosen, pick, rule


class PoolRules(Rules):
    """What happens to the pool as a whole, and to what lies idle in it."""

    @precondition(Rules._is_open)
    @rule()
    def lend_all_and_take_them_back(self) -> None:
        """Borrow for as long as there is one, and give them back: exactly maxconn can be lent."""
        if not self._model.calls:
            for borrower in self.driver.lend_all():
                if borrower.loan is not None:
                    self.driver.give_back(borrower)

    @precondition(lambda self: self._model.promises.check and self._may("killed") and self._model.free_open())
    @rule(number=st.integers(0, MOST))
    def kill_an_idle_connection(self, number: int) -> None:
        """End an idle connection at the server, without a word to the pool."""
        self.driver.server.kill(pick(self._model.free_open(), number))

    @precondition(lambda self: self._is_open() and self._spans())
    @rule(seconds=chosen(lambda machine, number: pick(machine._spans(), number)))
    def wait(self, seconds: float) -> None:
        """Put the clock forward; if the pool has a `maintain()`, it is called, as time would have it."""
        self.driver.advance(seconds)

    @precondition(lambda self: self._is_open() and self._can("maintain"))
    @rule()
    def maintain(self) -> None:
        """Call the pool's `maintain()`."""
        self.driver.do(self.driver.pool.maintain)

    @precondition(lambda self: self._is_open() and self._can("check"))
    @rule()
    def check(self) -> None:
        """Call the pool's `check()`."""
        self.driver.do(self.driver.pool.check)

    @precondition(lambda self: self._is_open() and self._can("drain"))
    @rule()
    def drain(self) -> None:
        """Call the pool's `drain()`."""
        self.driver.do(self.driver.pool.drain)

    @precondition(lambda self: self._is_open() and self._can("resize"))
    @rule(minconn=st.integers(0, 2), more=st.integers(0, 2))
    def resize(self, minconn: int, more: int) -> None:
        """Call the pool's `resize(minconn, minconn + more)`; with no room for any, it is one more."""
        self.driver.resize(minconn, max(1, minconn + more))

    @precondition(lambda self: self._is_open() and self._can("close"))
    @rule(close_fails=chosen(lambda machine, number: pick((None, *machine._close_errors()), number)))
    def close(self, close_fails: str | None) -> None:
        """Close the pool by its `close()`, which leaves open what is lent; the first close may fail."""
        self.driver.close_gently({} if close_fails is None else {"close": self._error(close_fails)})

    @precondition(lambda self: self._is_open() and self._can("open"))
    @rule()
    def open(self) -> None:
        """Call the pool's `open()`, which does nothing, since the pool is open."""
        call = self.driver.do(self.driver.pool.open)
        if call.answered and call.error is not None:
            raise call.error

    @precondition(lambda self: (self._is_open() or self._is_gently_closed()) and self._can("closeall"))
    @rule(close_fails=chosen(lambda machine, number: pick((None, *machine._close_errors()), number)))
    def closeall(self, close_fails: str | None) -> None:
        """Close the pool; the first close of a connection may fail."""
        faults = {} if close_fails is None else {"close": self._error(close_fails)}
        self.driver.close_the_pool(faults=faults)

    @precondition(lambda self: self._model.closing)
    @rule()
    def make_another_pool(self) -> None:
        """Let everything end, and make another pool over another server."""
        self._end()
        self._begin()

    _make_another_soon = _make_another_very_soon = make_another_pool

    def _is_gently_closed(self) -> bool:
        return self._model.gently and not self._model.swept and self._can_call()

    def _close_errors(self) -> tuple[str, ...]:
        return self._errors() if self._may("close") else ()

    def _spans(self) -> list[float]:
        promises = self._model.promises
        limits = [limit for limit in (promises.max_idle, promises.max_lifetime) if limit]
        return [span for limit in limits for span in (limit + 1, limit / 2)]
