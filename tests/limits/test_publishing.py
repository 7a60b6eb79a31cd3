"""Each process publishes its pools as long as it lives. A reader sees all of it, and nothing of the dead."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs._publishing import _File, _of, read
from pgpool_rs.testing import FakeServer
from tests.lib.metrics_site import serving
from tests.lib.programs import PROLOGUE, run_forking_program, run_program
from tests.lib.publishers import SHOP, publisher, wait_for, wait_for_pids
from tests.lib.waits import wait_until

# A program that publishes in `folder`, a hundred times a second.
PUBLISHING = """
from pathlib import Path
from pgpool_rs import _publishing
from tests.lib.publishers import wait_for, wait_for_pids
folder = Path({folder!r})
os.environ["PGPOOL_RS_PUBLISH"] = str(folder)
_publishing.INTERVAL = 0.01

def threads():
    return [thread.name for thread in threading.enumerate() if "publishing" in thread.name]
"""


def program(folder: Path, source: str) -> str:
    return PROLOGUE + PUBLISHING.format(folder=str(folder)) + source


def test_a_process_publishes_all_its_pools(tmp_path: Path) -> None:
    with publisher(tmp_path) as process:
        (seen,) = wait_for(
            tmp_path, lambda seen: bool(seen) and seen[0].pools[0].stats["pool_lent"] == 1 < len(seen[0].pools), "both"
        )
        assert (seen.pid, [pool.name for pool in seen.pools]) == (process.pid, ["web", "jobs"])
        web, jobs = seen.pools
        assert (web.get_stats()["connections_num"], web.get_histograms()["wait"].count) == (1, 1)
        assert web.stack[-1].endswith(" in handle_order")
        assert (jobs.get_stats()["pool_max"], jobs.stack) == (2, [])
        assert seen.age < 60


def test_no_password_no_key_and_no_source_line_is_published(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 1, "password=open-sesame", name="dbname=shop password=open-sesame", leak_after=60)
    connection = pool.getconn("customer 17")
    text = json.dumps(_of(pool))
    pool.putconn(connection, "customer 17")
    assert "dbname=shop ***" in text
    assert f"{__file__}:" in text
    for secret in ("open-sesame", "customer", "getconn"):
        assert secret not in text


def test_a_process_that_is_killed_is_gone_at_once_with_its_file(tmp_path: Path) -> None:
    with publisher(tmp_path) as first, publisher(tmp_path) as second:
        wait_for_pids(tmp_path, first.pid, second.pid)
        second.kill()
        second.wait()
        assert [process.pid for process in read(tmp_path)] == [first.pid]
        assert len(list(tmp_path.glob(f"{second.pid}-*"))) == 0


def test_a_process_that_is_stopped_stays_and_grows_old(tmp_path: Path) -> None:
    with publisher(tmp_path) as process:
        wait_for_pids(tmp_path, process.pid)
        process.send_signal(signal.SIGSTOP)
        wait_for(tmp_path, lambda seen: seen[0].age > 2, "an age")
        process.send_signal(signal.SIGCONT)
        wait_for(tmp_path, lambda seen: seen[0].age < 1, "news")


def test_a_new_process_removes_what_dead_ones_have_left(tmp_path: Path) -> None:
    with publisher(tmp_path) as process:
        wait_for_pids(tmp_path, process.pid)
        process.kill()
    (left,) = tmp_path.iterdir()
    left.with_suffix(".new").touch()
    with publisher(tmp_path) as process:
        # Nobody else reads the folder.
        wait_until(lambda: any(tmp_path.glob(f"{process.pid}-*.pgpool_rs")), "its file")
        assert not left.exists()
        assert not left.with_suffix(".new").exists()


def test_a_reader_finds_each_process_whole_at_each_moment(tmp_path: Path) -> None:
    source = SHOP.replace("psycopg2.connect =", "_publishing.INTERVAL = 0; psycopg2.connect =")
    with publisher(tmp_path, source) as running:
        wait_for(tmp_path, lambda seen: bool(seen) and len(seen[0].pools) == 2, "both pools")
        moments: set[float] = set()
        while len(moments) < 200:
            (process,) = read(tmp_path)
            assert len(process.pools) == 2
            moments.add(process.at)
        # It keeps one file open, and perhaps the next one.
        files = Path(f"/proc/{running.pid}/fd").iterdir()
        assert len([file for file in files if str(tmp_path) in os.path.realpath(file)]) <= 2


def test_a_forked_child_publishes_on_its_own_and_outlives_its_parent(tmp_path: Path) -> None:
    run_forking_program(
        program(
            tmp_path,
            """
_publishing.INTERVAL = 60  # The thread sleeps at the fork.
pool = ThreadedConnectionPool(1, 2, name="web")
wait_until(lambda: _publishing._publisher.files[folder]._held is not None, "the parent's file")
_publishing.INTERVAL = 0.01
read_end, write_end = os.pipe()

def child():
    # The parent's locks are not the child's, and no descriptor of them stays here.
    assert not [path for path in Path("/proc/self/fd").iterdir() if f"/{os.getppid()}-" in os.path.realpath(path)]
    assert len(threads()) == 1
    def grandchild():
        parent = os.getppid()
        wait_for_pids(folder, parent, first)
        os.kill(parent, 9)
        wait_for_pids(folder, first)
        os.write(write_end, b"gone")
    first = os.getppid()
    Child(grandchild)
    time.sleep(60)

one = Child(child)
assert os.read(read_end, 4) == b"gone"
assert wait_for_end(one.pid) == -9
""",
        )
    )


@pytest.mark.parametrize("how", ["os.fork", "fork in C"])
def test_a_pool_made_in_a_child_is_published_however_it_was_forked(how: str, tmp_path: Path) -> None:
    run_forking_program(
        program(
            tmp_path,
            f"""
_publishing.INTERVAL = 0.5  # A fork in C needs threads that sleep.
pool = ThreadedConnectionPool(1, 2, name="web")
wait_until(lambda: any(folder.iterdir()), "the parent's file")
ready, go = os.pipe()

def child():
    own = ThreadedConnectionPool(0, 1, name="own")
    os.read(ready, 1)

one = Child(child, how={how!r})
(seen,) = wait_for(folder, lambda seen: [len(process.pools) for process in seen] == [2], "the child")
assert (seen.pid, [pool.name for pool in seen.pools]) == (one.pid, ["web", "own"])
os.write(go, b".")
one.wait()
""",
        )
    )


def test_the_thread_ends_with_the_last_pool_and_begins_again_with_the_next(tmp_path: Path) -> None:
    run_program(
        program(
            tmp_path,
            """
assert threads() == []
for _ in range(3):
    pool = ThreadedConnectionPool(0, 2)
    wait_until(lambda: len(list(folder.glob("*.pgpool_rs"))) == 1, "a file")
    assert threads() == ["pgpool_rs publishing"]
    del pool
    wait_until(lambda: threads() == [] == list(folder.iterdir()), "the end")
""",
        )
    )


def test_nothing_is_published_unless_it_is_asked_for(tmp_path: Path) -> None:
    run_program(
        program(
            tmp_path,
            """
for value in ("", "0", None):
    os.environ["PGPOOL_RS_PUBLISH"] = value or ""
    if value is None:
        del os.environ["PGPOOL_RS_PUBLISH"]
    pool = ThreadedConnectionPool(0, 2)
assert threads() == []
# As one that names a limit does, before or after a pool is made.
_publishing.start(folder)
wait_until(lambda: len(list(folder.glob("*.pgpool_rs"))) == 1, "a file")
""",
        )
    )


def test_1_is_the_users_own_folder(tmp_path: Path) -> None:
    run_program(
        program(
            tmp_path,
            """
os.environ |= {"PGPOOL_RS_PUBLISH": "1", "XDG_RUNTIME_DIR": str(folder)}
pool = ThreadedConnectionPool(0, 2)
wait_until(lambda: len(list(folder.glob("pgpool_rs/*.pgpool_rs"))) == 1, "a file")
""",
        )
    )


def test_a_folder_that_fails_is_logged_once_and_the_pool_works(tmp_path: Path) -> None:
    run_program(
        program(
            tmp_path / "later",
            """
lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append((record.name, record.event, record.getMessage()))
logging.getLogger("pgpool_rs").addHandler(Lines())
pool = ThreadedConnectionPool(1, 2)
(line,) = lines
assert line[:2] == ("pgpool_rs.publishing", "publishing_failed"), line
assert line[2] == f"PGPOOL_RS_PUBLISH: there is no folder {folder}: make it first, or give another folder="
pool.putconn(pool.getconn())
for time_of_failure in range(2):
    lines.clear()
    folder.mkdir()
    os.environ["PGPOOL_RS_PUBLISH"] = str(folder)
    other = ThreadedConnectionPool(0, 2)
    wait_until(lambda: any(folder.glob("*.pgpool_rs")), "a file")
    folder.rename(folder.with_name(f"moved {time_of_failure}"))
    wait_until(lambda: lines, "a line")
    published = len(lines)
    time.sleep(0.1)
    assert published == len(lines) == 1, lines
    assert lines[0][2].startswith("cannot publish the statistics: [Errno 2] No such file"), lines
""",
        )
    )


def test_a_folder_that_cannot_be_listed_is_published_into_all_the_same(tmp_path: Path) -> None:
    run_program(
        program(
            tmp_path,
            """
import pathlib
list_folder = pathlib.Path.glob
def fail(self, pattern):  # as it does where a daemon closes all descriptors meanwhile
    pathlib.Path.glob = list_folder
    raise OSError(9, "Bad file descriptor")
pathlib.Path.glob = fail
_publishing.start(folder)
pool = ThreadedConnectionPool(0, 2)
wait_until(lambda: pathlib.Path.glob is list_folder and any(folder.glob("*.pgpool_rs")), "a file")
""",
        )
    )


def test_what_no_process_of_ours_has_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "folder.pgpool_rs").mkdir()
    os.mkfifo(tmp_path / "fifo.pgpool_rs")
    (tmp_path / "link.pgpool_rs").symlink_to("/etc/passwd")
    written = [_File(tmp_path) for _ in range(4)]
    for file, content in zip(written, [b"", b"\xff", b"[]", b'{"pid": 1, "pools": [{}]}'], strict=True):
        file.write(content)
    # This process would free its own locks, so another one reads.
    run_program(program(tmp_path, "assert _publishing.read(folder) == []"))
    assert len(list(tmp_path.iterdir())) == 7
    for file in written:
        file.remove()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_descriptor_that_the_program_has_closed_is_not_closed_again(tmp_path: Path) -> None:
    file = _File(tmp_path)
    file.write(b"first")
    assert file._held is not None
    number = file._held[0]
    os.close(number)
    other = os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, number)
    file.write(b"second")
    os.fstat(number)
    file.remove()
    for descriptor in {other, number}:
        os.close(descriptor)


def test_the_workers_of_a_gunicorn_publish_and_a_killed_one_is_replaced(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPOOL_RS_PUBLISH", str(tmp_path))
    with serving(dsn, workers=2) as site:
        seen = wait_for(tmp_path, lambda seen: len(seen) == 3, "the master and two workers")
        worker = int(site.get("/query"))
        assert worker in {process.pid for process in seen}
        os.kill(worker, signal.SIGKILL)
        wait_for(tmp_path, lambda seen: len(seen) == 3 and all(process.pid != worker for process in seen), "a new one")
