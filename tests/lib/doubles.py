"""Things in the place of a connection."""

from __future__ import annotations

from typing import Any


class Proxy:
    """A connection wrapped by a tracing library: everything is passed on, identity is the wrapper's."""

    def __init__(self, wrapped: Any) -> None:
        self.__dict__["__wrapped__"] = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == other)

    def __hash__(self) -> int:
        return hash(self.__wrapped__)
