"""Files and directories of ours: made for this user alone, and refused when they are not what they were."""

from __future__ import annotations

import os
import pickle
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.core import private
from flyte_notebook.core.private import NotPrivateError, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534


@pytest.fixture(params=[0o022, 0o000, 0o777], ids=oct)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[private.Directory]:
    """Give a directory of ours that is known, made under a umask that somebody else chose."""
    before = os.umask(request.param)
    try:
        made = private.make(str(tmp_path / "ours"))
        private.know(made)
        yield made
        private.forget(made)
    finally:
        os.umask(before)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 - a text


def test_a_directory_and_its_files_are_this_users_alone(directory: private.Directory) -> None:
    """0700 and 0600 whatever the umask is; what was written is read again."""
    path = directory.new_path(".value")
    private.write(path, b"value")
    assert (0o700, 0o600) == (mode_of(directory.path), mode_of(path))
    with private.read(path) as file:
        assert b"value" == file.read()
    private.remove(path)
    assert not private.exists(path)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Neither a directory nor a file is taken over: who was there first keeps it, and nothing is written to it."""
    made = private.make(str(tmp_path / "ours"))
    with pytest.raises(FileExistsError):
        private.make(made.path)
    path = Path(made.path, "value")
    path.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        private.create(str(path))
    with pytest.raises(UnwritableError, match=r"File exists: 4 B cannot be written to .*value"):
        private.write(str(path), b"ours")
    assert b"theirs" == path.read_bytes()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Neither where a file or directory of ours should be, nor where one is to be made."""
    made = private.make(str(tmp_path / "ours"))
    private.know(made)
    try:
        (tmp_path / "precious").write_bytes(b"precious")
        link = Path(made.path, "link")
        link.symlink_to(tmp_path / "precious")
        with pytest.raises(OSError, match="symbolic links"):
            private.read(str(link))
        with pytest.raises(FileExistsError):
            private.create(str(link))
        private.remove(str(link))
        assert b"precious" == (tmp_path / "precious").read_bytes()
        Path(made.path).rename(tmp_path / "moved")
        Path(made.path).symlink_to(tmp_path / "moved")
        with pytest.raises(NotPrivateError):
            private.find(made.path)
        with pytest.raises(NotPrivateError):
            private.create(f"{made.path}/value")
    finally:
        private.forget(made)


def gone(directory: private.Directory) -> None:
    directory.remove()


def another(directory: private.Directory) -> None:
    Path(directory.path).rename(f"{directory.path}.moved")
    Path(directory.path).mkdir(mode=0o700)


def opened_up(directory: private.Directory) -> None:
    Path(directory.path).chmod(0o711)


def given_away(directory: private.Directory) -> None:
    another(directory)
    os.chown(directory.path, NOBODY, NOBODY)


def a_file(directory: private.Directory) -> None:
    directory.remove()
    Path(directory.path).touch()


FAULTS: dict[str, tuple[Callable[[private.Directory], None], str]] = {
    "gone": (gone, "gone"),
    "another": (another, "another directory stands"),
    "open to others": (opened_up, "others may enter it"),
    "another user's": (given_away, f"belongs to user {NOBODY}"),
    "a file": (a_file, "no directory that is ours"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_directory_that_is_not_what_it_was_is_refused(tmp_path: Path, fault: str) -> None:
    """Nothing is written to it, read from it or removed there, and nothing is made in its place."""
    change, words = FAULTS[fault]
    if "user" in fault and os.geteuid() != 0:
        pytest.skip("cannot be here: only root gives directories away")
    made = private.make(str(tmp_path / "ours"))
    private.know(made)
    try:
        value = f"{made.path}/value"
        private.write(value, b"value")
        change(made)
        if Path(made.path).is_dir():
            Path(value).write_bytes(b"theirs")
        for use in (private.create, private.read, private.remove):
            with pytest.raises(NotPrivateError, match=words):
                use(value)
        with pytest.raises(UnwritableError, match=words):
            private.write(f"{made.path}/other", b"")
        made.remove()
        assert (fault == "gone") != Path(made.path).exists()
        assert Path(made.path).is_dir() == Path(value).exists()
    finally:
        private.forget(made)


@pytest.mark.parametrize(
    ("mode", "group"), [(0o602, os.getegid()), pytest.param(0o620, NOBODY, marks=pytest.mark.root)]
)
def test_a_file_that_others_may_write_is_not_read(directory: private.Directory, mode: int, group: int) -> None:
    """It may hold anything by now. The user's own group, which a umask of 002 lets in, are no others."""
    path = directory.new_path()
    private.write(path, b"value")
    Path(path).chmod(0o660)
    private.read(path).close()
    os.chown(path, -1, group)
    Path(path).chmod(mode)
    with pytest.raises(NotPrivateError, match="others may write"):
        private.read(path)


@pytest.mark.root
def test_a_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    """Also where a user named the directory himself, and others may write there."""
    path = tmp_path / "value"
    path.write_bytes(b"theirs")
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(NotPrivateError, match=f"belongs to user {NOBODY}"):
        private.read(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_what_is_no_file_is_not_read(tmp_path: Path, make: Callable[[str], None]) -> None:
    """Nor does anybody wait for who writes to a pipe."""
    make(str(tmp_path / "value"))
    with pytest.raises(NotPrivateError, match="no file"):
        private.read(str(tmp_path / "value"))


def test_a_directory_goes_with_what_is_in_it_and_links_are_not_followed(tmp_path: Path) -> None:
    """Its own directories and files go; what a link leads to stays."""
    made = private.make(str(tmp_path / "ours"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    Path(made.path, "deep", "deeper").mkdir(parents=True)
    Path(made.path, "deep", "deeper", "value").touch()
    Path(made.path, "link").symlink_to(tmp_path / "precious")
    made.remove()
    made.remove()
    assert not Path(made.path).exists()
    assert (tmp_path / "precious" / "file").exists()


def test_a_second_name_is_a_file_of_its_own(directory: private.Directory) -> None:
    """It stays when the first one goes, and its size is known."""
    first, second = directory.new_path(), directory.new_path()
    private.write(first, b"value")
    assert 5 == private.link(first, second)
    private.remove(first)
    with private.read(second) as file:
        assert b"value" == file.read()


def test_a_lasting_directory_is_made_once_and_found_again(tmp_path: Path) -> None:
    """With those above it, each for this user alone."""
    path = tmp_path / "cache" / "deep" / "values"
    made = private.lasting(path)
    assert made == private.lasting(path)
    assert [0o700] * 3 == [mode_of(str(place)) for place in (path, path.parent, path.parent.parent)]


@pytest.mark.parametrize(("mode", "words"), [(0o755, "others may enter"), (0o777, "others may")])
def test_a_lasting_directory_of_others_is_refused(tmp_path: Path, mode: int, words: str) -> None:
    """Where it is open to others, or they may put another one in its place."""
    (tmp_path / "values").mkdir()
    (tmp_path / "values").chmod(mode)
    with pytest.raises(NotPrivateError, match=words):
        private.lasting(tmp_path / "values")
    if mode & stat.S_IWOTH:
        with pytest.raises(NotPrivateError, match="others may replace"):
            private.lasting(tmp_path / "values" / "below")
    else:
        private.lasting(tmp_path / "values" / "below")


def test_the_errors_survive_pickling() -> None:
    """They cross from process to process."""
    for error in (NotPrivateError(1, "why", "path"), UnwritableError(28, "no space: 1 B cannot be written to path")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (type(error), str(error)) == (type(again), str(again))


def test_the_cache_of_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the variable says, if that is a path from the top; else in the home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path / "flyte-notebook" == private.cache_directory()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    above = "Library/Caches" if sys.platform == "darwin" else ".cache"
    assert tmp_path / above / "flyte-notebook" == private.cache_directory()
