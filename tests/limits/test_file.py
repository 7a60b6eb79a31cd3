from __future__ import annotations

import copy
import os
import pickle
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgpool_rs._limits import HostLimit, SharedLimit, file
from tests.lib.limited import LimitedPool, workers
from tests.lib.programs import in_a_child
from tests.lib.waits import wait_until


def noise(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(os.urandom(file._SIZE))


def zeros(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(bytes(file._SIZE))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: os.truncate(path, 0),
    "cut short": lambda path: os.truncate(path, 5000),
    "too long": lambda path: os.truncate(path, 10**6),
    "filled with noise": noise,
    "filled with zeros": zeros,
    "made read-only": lambda path: path.chmod(0o400),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_limit_holds_whatever_happens_to_the_file(tmp_path: Path, damage: str) -> None:
    with workers(tmp_path, 3, 6) as (first, second, third):
        assert first.do("pool.lend(2)") + second.do("pool.lend(2)") + third.do("pool.lend(1)") == 5
        # By another process: a close of the file would free the locks of this one.
        in_a_child(DAMAGES[damage], tmp_path / "shop.limit")
        for worker in (first, second):
            worker.do("pool.want(2)")
        wait_until(lambda: first.do("pool.lent") + second.do("pool.lent") == 5)
        assert third.do("pool.lend(1)") == 0
        third.do("pool.close()")
        wait_until(lambda: first.do("pool.lent") + second.do("pool.lent") == 6)
        first.kill()
        wait_until(lambda: second.do("pool.waiting") == 0)


def test_the_folder_has_one_file_of_the_user_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    HostLimit("shop", 5, folder=tmp_path)
    # What this process publishes there is not the limit's.
    assert [path.name for path in tmp_path.iterdir() if f"{os.getpid()}-" not in path.name] == ["shop.limit"]
    assert stat.S_IMODE((tmp_path / "shop.limit").stat().st_mode) == 0o600


def test_the_file_is_as_open_as_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    HostLimit("shop", 5, folder=tmp_path)
    assert stat.S_IMODE((tmp_path / "shop.limit").stat().st_mode) == 0o660


@pytest.mark.parametrize("contents", [b"", b"a text", bytes(file._SIZE), b"pgpoollm\2".ljust(file._SIZE, b"\0")])
def test_a_file_of_another_size_or_version_is_refused_and_left_as_it_is(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "shop.limit"
    path.write_bytes(contents)
    with pytest.raises(OSError, match="no limit's file of this version"):
        HostLimit("shop", 5, folder=tmp_path)
    assert path.read_bytes() == contents


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "shop.limit").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match=r"shop\.limit"):
        HostLimit("shop", 5, folder=tmp_path)


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="cannot make the limit's file: No space left on device"):
        HostLimit("shop", 5, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_linux_a_limit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="a HostLimit needs Linux"):
        HostLimit("shop", 5, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert SharedLimit(5).limit == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_this_user_may_not_write_is_refused(tmp_path: Path, what: str) -> None:
    tmp_path.chmod(0o755 if what == "folder" else 0o777)
    if what == "file":
        HostLimit("stock", 5, folder=tmp_path)
        (tmp_path / "stock.limit").chmod(0o644)

    def other() -> None:
        os.setegid(12345)
        os.seteuid(12345)
        os.chdir("/")
        with pytest.raises(PermissionError, match="may not write into the folder" if what == "folder" else "stock"):
            HostLimit("stock", 5, folder=tmp_path)

    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    # A process that has the file open keeps it.
    in_a_fresh_process(other)


def in_a_fresh_process(function: Callable[[], None]) -> None:
    """Run it in a child that knows of no file."""

    def forgetful() -> None:
        file.LimitFile._known.clear()
        function()

    in_a_child(forgetful)


@pytest.mark.parametrize("name", ["", "../shop", "a/b", ".hidden", "a b", "x" * 101, None, 5])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="a limit's name is of letters"):
        HostLimit(name, 5, folder=tmp_path)


@pytest.mark.parametrize("limit", [0, -1, 4097])
def test_a_limit_that_cannot_be_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(ValueError, match="a limit is from 1 to 4096"):
        HostLimit("shop", limit, folder=tmp_path)
    with pytest.raises(ValueError, match="a limit is from 1 to 4096"):
        HostLimit("shop", 5, folder=tmp_path).resize(limit)


@pytest.mark.parametrize("limit", [True, 1.5, "5", None])
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(TypeError, match="a limit is a number of connections, not"):
        HostLimit("shop", limit, folder=tmp_path)


def test_a_copy_is_the_same_limit_and_another_process_may_be_given_it(tmp_path: Path) -> None:
    limit, shared = HostLimit("shop", 3, folder=tmp_path), SharedLimit(3)
    pools = [LimitedPool(limit), LimitedPool(shared)]
    assert [pool.lend(1) for pool in pools] == [1, 1]
    options = {"limit": limit, "shared": shared}
    copied = copy.deepcopy(options)
    assert (copied["limit"], copied["shared"]) == (limit, shared)
    limit.resize(2)
    sent = pickle.loads(pickle.dumps(options))
    assert repr(sent) == "{'limit': HostLimit('shop', 2), 'shared': SharedLimit(3)}"
    assert (sent["limit"].holders(), sent["shared"].holders()) == (limit.holders(), [])


def test_the_repr_has_what_was_named(tmp_path: Path) -> None:
    limit = HostLimit("shop", 5, folder=tmp_path)
    limit.resize(7)
    assert repr(limit) == "HostLimit('shop', 7)"
    assert LimitedPool(limit).limit.limit == 7
