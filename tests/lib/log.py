"""What a pool logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.lib.waits import wait_until

H = TypeVar("H", bound=logging.Handler)


class Lines(logging.Handler):
    """Keeps what a pool logs, and raises when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []
        self.error: BaseException | None = None
        self.where = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.lines.append((record.levelno, text))
        if self.error is not None and self.where in text:
            raise self.error

    def fail(self, error: BaseException, where: str = "") -> None:
        """Raise this from each line that has `where` in it."""
        self.error, self.where = error, where

    @property
    def texts(self) -> list[str]:
        """Give the lines without their levels."""
        return [text for _, text in self.lines]

    def wait_for(self, number: int) -> None:
        """Wait until so many lines have been logged: by another thread, that may come after what they tell."""
        wait_until(lambda: len(self.lines) >= number, f"line {number}")


@contextmanager
def listening(name: str, level: int = logging.DEBUG) -> Iterator[Lines]:
    """Collect what the pool of this name logs, from this level on."""
    with _handled(f"pgpool_rs.{name}", Lines(), level) as lines:
        yield lines


@contextmanager
def handled_by(act: Callable[[logging.LogRecord], object], name: str = "pgpool_rs") -> Iterator[None]:
    """Have a handler call this with each record, as loud as debug."""

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            # Not emit, around which a handler holds its lock.
            act(record)
            return True

    with _handled(name, Handler()):
        yield


@contextmanager
def _handled(name: str, handler: H, level: int = logging.DEBUG) -> Iterator[H]:
    logger = logging.getLogger(name)
    before, logger.propagate = logger.propagate, False
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = before
