"""What a pool logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lib.waits import wait_until


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
    logger = logging.getLogger(f"pgpool_rs.{name}")
    lines = Lines()
    before, logger.propagate = logger.propagate, False
    logger.setLevel(level)
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(logging.NOTSET)
        logger.propagate = before
