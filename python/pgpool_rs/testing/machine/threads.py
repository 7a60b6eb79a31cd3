"""The threads a machine drives: calls that are held inside connect, rollback or close, and calls that wait.

Whether a thread sleeps is seen from outside, so that any pool will do: on Linux, the kernel says of each thread whether
it is asleep and how often it has been switched. While the main thread sleeps the GIL is free, so that a thread which is
asleep before and after, and was not switched in between, waits for something that only another call can give.
A wrong guess must do no harm: what follows from it is confirmed with patience before it is called a failure.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# A machine's own waiting must not follow a clock that its server has put forward.
_now = time.perf_counter

# How long a thread must sleep through for it to count as asleep, in seconds.
_NAP = 0.0004
# Without /proc: how long a call must have said nothing.
_LONG_NAP = 0.02
# How long threads that are not the machine's are waited for to come to rest, in seconds.
_COURTESY = 0.02
_TASKS = Path("/proc/self/task")
_KERNEL_TELLS = (_TASKS / str(threading.get_native_id()) / "status").exists()

Kind = Literal["borrow", "return", "other"]


@final
class Call:
    """One call of a pool in a thread of its own: its outcome, and where it is held."""

    def __init__(
        self,
        kind: Kind,
        what: Callable[[], Any],
        *,
        key: Any = None,
        holds: Collection[str] = (),
        faults: dict[str, BaseException] | None = None,
        may_wait: bool = False,
        lasts: float = 0,
    ) -> None:
        """Prepare a call.

        :param holds: the calls of the server to stop in; it is held in the first one that comes.
        :param faults: what calls of the server raise, by their name.
        :param may_wait: whether it may wait for a connection.
        :param lasts: seconds that it takes where all goes well.
        """
        self.kind = kind
        self.what = what
        self.key = key
        self.holds = set(holds)
        self.faults = faults or {}
        self.fired: list[BaseException] = []
        self.visits: list[str] = []
        self.may_wait = may_wait
        self.lasts = lasts
        self.has_followed = False  # another call was opening the connection for its key
        self.held_in: str | None = None
        self.answered = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.worker: Worker | None = None
        self._news = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)

    def run(self) -> None:
        """Make the call; note its outcome."""
        try:
            self.result = self.what()
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the outcome
            self.error = error
        self.answered = True
        self._news.release()

    def visit(self, name: str) -> None:
        """Stop in a call of the server that the call is held in, and raise its fault."""
        self.visits.append(name)
        if name in self.holds:
            self.holds.clear()
            self.held_in = name
            self._news.release()
            self._go_on.acquire()
        fault = self.faults.pop(name, None)
        if fault is not None:
            self.fired.append(fault)
            raise fault

    def go_on(self) -> None:
        """Let it out of where it is held."""
        self.held_in = None
        self._go_on.release()

    def wait_for_news(self, seconds: float) -> None:
        """Wait until it is held or has answered, for so long at most."""
        if not self.answered:
            self._news.acquire(timeout=seconds)

    @property
    def blocked(self) -> bool:
        """Tell whether it has neither answered nor is held."""
        return not self.answered and self.held_in is None

    def stack(self) -> str:
        """Show where the call is now."""
        frame = None if self.worker is None else sys._current_frames().get(self.worker.thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "its thread has ended\n"


@final
class Worker:
    """A thread that makes one call after the other, and is used again by the next machine."""

    _idle: list[Worker] = []  # noqa: RUF012  it is shared on purpose
    all_threads: set[threading.Thread] = set()  # noqa: RUF012

    def __init__(self) -> None:
        """Start the thread. It is a daemon: a call that never answers must not keep the interpreter."""
        self.call: Call | None = None
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True, name="PoolMachine")
        Worker.all_threads.add(self.thread)
        self.thread.start()

    @classmethod
    def take(cls) -> Worker:
        """Return one that is idle."""
        return cls._idle.pop() if cls._idle else cls()

    def start(self, call: Call) -> None:
        """Begin a call."""
        call.worker = self
        self.call = call
        self._calls.put(call)

    def give_back(self) -> None:
        """Keep it for later, unless its call has not answered."""
        if self.call is None or self.call.answered:
            self.call = None
            Worker._idle.append(self)

    def _run(self) -> None:
        _here.worker = self
        while True:
            self._calls.get().run()


_here = threading.local()


def call_here() -> Call | None:
    """Return the call that this thread is making for a machine."""
    worker: Worker | None = getattr(_here, "worker", None)
    return None if worker is None else worker.call


def come_to_rest(calls: Collection[Call], workers: Collection[Worker], patience: float) -> None:
    """Wait until each call has answered, is held or sleeps, and nothing else in the process is about to change that.

    All the workers must be asleep: of several that want the GIL, the one that is next may be any of them, and the
    others sleep until it has had it.
    """
    start = _now()
    while True:
        strangers = [
            thread
            for thread in threading.enumerate()
            if thread not in Worker.all_threads and thread not in (threading.main_thread(), threading.current_thread())
        ]
        if not strangers and not any(call.blocked for call in calls):
            return
        before = _look_at(workers, strangers)
        time.sleep(_NAP if _KERNEL_TELLS else _LONG_NAP)
        after = _look_at(workers, strangers)
        passed = _now() - start
        asleep = before[0] == after[0] and all(state == "S" for _, state, _ in after[0])
        at_peace = before[1] == after[1] and all(state == "S" for _, state, _ in after[1])
        if passed > patience or (asleep and (at_peace or passed > _COURTESY)):
            return


_Seen = tuple[int, str, str]


def _look_at(workers: Collection[Worker], strangers: Collection[threading.Thread]) -> tuple[list[_Seen], list[_Seen]]:
    return ([_look(worker.thread) for worker in workers], [_look(thread) for thread in strangers])


def _look(thread: threading.Thread) -> _Seen:
    number = thread.native_id or 0
    if not _KERNEL_TELLS:
        return (number, "S", "")
    try:
        status = (_TASKS / str(number) / "status").read_text()
    except OSError:
        return (number, "gone", "")
    state = status[status.index("State:") + 6 :].split(None, 1)[0]
    return (number, state, status[status.index("voluntary_ctxt_switches") :])


def all_stacks(calls: Collection[Call]) -> str:
    """Show where each of these calls is, and every thread that is not a machine's."""
    shown = [f"A call that has not answered is here:\n{call.stack()}" for call in calls if not call.answered]
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread not in Worker.all_threads and thread is not threading.current_thread() and frame is not None:
            shown.append(f"{thread.name} is here:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(shown)
