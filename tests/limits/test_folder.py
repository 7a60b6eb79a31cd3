from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pgpool_rs._limits import folder as module
from pgpool_rs._limits.folder import folder


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user's runtime directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_it_is_made_in_the_runtime_directory_for_the_user_alone(runtime: Path) -> None:
    assert folder(None) == runtime / "pgpool_rs" == folder(None)
    assert stat.S_IMODE(folder(None).stat().st_mode) == 0o700


def test_without_a_runtime_directory_it_lies_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert folder(None) == tmp_path / f"pgpool_rs-{os.geteuid()}"


def test_one_that_others_may_write_into_is_refused(runtime: Path) -> None:
    folder(None).chmod(0o770)
    with pytest.raises(PermissionError, match=r"others may write into the folder .*pgpool_rs: set its mode to 0700"):
        folder(None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder away")
def test_one_of_another_user_is_refused(runtime: Path) -> None:
    os.chown(folder(None), 12345, -1)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        folder(None)


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_a_link_is_not_followed(runtime: Path, target: str) -> None:
    (runtime / "elsewhere").mkdir()
    (runtime / "pgpool_rs").symlink_to(runtime / target)
    with pytest.raises(OSError, match=r"pgpool_rs"):
        folder(None)
    with pytest.raises(OSError, match=r"pgpool_rs is no folder"):
        folder(runtime / "pgpool_rs")


def test_one_that_is_given_may_be_shared(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert folder(str(tmp_path)) == tmp_path


def test_one_that_is_given_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*shop: make it first"):
        folder(tmp_path / "shop")


def test_a_runtime_directory_that_is_read_only_says_so(runtime: Path) -> None:
    (runtime / "pgpool_rs").write_text("a file")
    with pytest.raises(OSError, match=r"cannot make the folder.*pgpool_rs"):
        folder(None)


def test_a_file_system_of_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._file_system(tmp_path.stat().st_dev) not in {None, *module._REMOTE}

    def seen(self: Path, **_: Any) -> str:
        device = tmp_path.stat().st_dev
        return f"36 35 {os.major(device)}:{os.minor(device)} / /srv rw,noatime shared:1 - nfs4 host:/srv rw\n"

    monkeypatch.setattr(Path, "read_text", seen)
    with pytest.raises(OSError, match="lies on nfs4"):
        folder(tmp_path)
