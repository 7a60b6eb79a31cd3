"""Sleep until another process changes a word of a shared file: Linux's futex, where its number is known."""

from __future__ import annotations

import ctypes
import errno
import mmap
import platform
import sys
from typing import Final

_NUMBER: Final = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
_KNOWN: Final = sys.platform == "linux" and sys.maxsize > 2**32 and _NUMBER is not None
_WAIT, _WAKE, ALL = 0, 1, 2**31 - 1
_WOKEN: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT})


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Futex:
    """The words at the beginning of a file. The mapping only names them to the kernel: nothing here reads it.

    So a truncated file is an error of the call, and no SIGBUS. `mmap.mmap` will not do: it closes a descriptor of the
    file when it is collected, and with it goes every lock that the process has on the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._address: int | None = None
        if _KNOWN:
            libc = ctypes.CDLL(None)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
            address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if address != ctypes.c_void_p(-1).value:
                self._address, self._syscall = address, ctypes.CDLL(None, use_errno=True).syscall
                self._syscall.restype = ctypes.c_long

    def wait(self, offset: int, seen: int, seconds: float) -> bool:
        """Sleep while the word is `seen`, so many seconds at most. Return False if there is no such sleep here."""
        pause = _Timespec(int(seconds), int(seconds % 1 * 1e9))
        done = self._call(offset, _WAIT, seen, ctypes.byref(pause))
        return done == 0 or (done is not None and ctypes.get_errno() in _WOKEN)

    def wake(self, offset: int, most: int) -> None:
        """Wake so many of the processes that sleep on the word."""
        self._call(offset, _WAKE, most, None)

    def _call(self, offset: int, operation: int, value: int, pause: object) -> int | None:
        if self._address is None:
            return None
        result: int = self._syscall(
            ctypes.c_long(_NUMBER or 0),
            ctypes.c_void_p(self._address + offset),
            ctypes.c_int(operation),
            ctypes.c_uint(value),
            pause,
        )
        return result
