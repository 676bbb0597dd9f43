"""One commit of a real git server: exactly that one, only files, and a sentence for all that can be wrong."""

from __future__ import annotations

import io
import os
import subprocess

import pytest

from git_server import GitServer
from local_server import LocalServer, content, status
from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.modules import git
from trainingsession_trainer.reporting import Reporter


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with GitServer(tmp_path_factory.mktemp("git")).running() as running:
        yield running


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    monkeypatch.setattr(git, "TRIES", 1)
    target = tmp_path / "code"
    target.mkdir()

    def run(url, revision, path=".", credentials=None, stop=lambda: False):
        git.fetch_code(url, revision, path, target, credentials, Reporter(io.StringIO()), stop)
        return {str(p.relative_to(target)): p.read_text() for p in sorted(target.rglob("*")) if p.is_file()}

    return run


def test_the_named_commit_is_fetched_and_not_a_newer_one(server, fetch) -> None:
    old = server.commit("two", {"a.py": "old", "lib/b.py": "b"})
    server.commit("two", {"a.py": "new"})
    assert fetch(f"{server.uri}/two", old) == {"a.py": "old", "lib/b.py": "b"}


def test_a_commit_of_a_repository_with_sha256_is_fetched_by_its_64_digits(server, fetch) -> None:
    revision = server.commit("new", {"a.py": "a", "lib/b.py": "b"}, object_format="sha256")
    assert len(revision) == 64
    assert fetch(f"{server.uri}/new", revision) == {"a.py": "a", "lib/b.py": "b"}
    for odd in (revision[:40], "a" * 64):
        with pytest.raises(SpecError, match=f"revision {odd} is not given out by"):
            fetch(f"{server.uri}/new", odd)


def test_only_the_folder_that_is_named_is_written(server, fetch) -> None:
    revision = server.commit("deep", {"a.py": "a", "src/heads/b.py": "b", "src/c.py": "c"})
    assert fetch(f"{server.uri}/deep", revision, "src") == {"heads/b.py": "b", "c.py": "c"}


def test_links_are_left_out(server, fetch) -> None:
    server.commit("links", {"a.py": "a"})
    (server.folder / "links/passwd").symlink_to("/etc/passwd")
    revision = server.commit("links", {})
    assert fetch(f"{server.uri}/links", revision) == {"a.py": "a"}


def test_a_private_repository_is_fetched_with_user_and_password(tmp_path, fetch) -> None:
    with GitServer(tmp_path, password="hunter2").running() as private:
        revision = private.commit("mine", {"a.py": "a"})
        with pytest.raises(SpecError, match="asks for a password; name a Secret"):
            fetch(f"{private.uri}/mine", revision)
        with pytest.raises(SpecError, match="refuses the user and password") as caught:
            fetch(f"{private.uri}/mine", revision, credentials=("reader", "wrong"))
        assert "wrong" not in str(caught.value).replace("refuses", "")
        assert fetch(f"{private.uri}/mine", revision, credentials=("reader", "hunter2")) == {"a.py": "a"}


def test_a_commit_that_is_not_there_is_named(server, fetch) -> None:
    server.commit("some", {"a.py": "a"})
    with pytest.raises(SpecError, match=r"spec\.module\.git\.revision a{40} .*push the commit"):
        fetch(f"{server.uri}/some", "a" * 40)


def test_a_tree_is_no_commit(server, fetch) -> None:
    server.commit("tree", {"a.py": "a"})
    tree = subprocess.run(
        ["git", "rev-parse", "HEAD^{tree}"], cwd=server.folder / "tree", capture_output=True, text=True, check=True
    ).stdout.strip()
    with pytest.raises(SpecError, match=r"spec\.module\.git\.revision"):
        fetch(f"{server.uri}/tree", tree)


@pytest.mark.parametrize("path", ["nowhere", "a.py", "src/nowhere"])
def test_a_folder_that_is_not_there_is_named(server, fetch, path) -> None:
    revision = server.commit("some", {"a.py": "a", "src/b.py": "b"})
    with pytest.raises(SpecError, match=rf"spec\.module\.git\.path is '{path}', which is no folder of commit"):
        fetch(f"{server.uri}/some", revision, path)


def test_an_address_without_a_repository_is_named(server, fetch) -> None:
    with pytest.raises(SpecError, match="is no git repository; correct the address"):
        fetch(f"{server.uri}/nothing", "a" * 40)


@pytest.mark.parametrize("answer", [status(503), content(b"<html>hello</html>"), content(b"001e# service=git")])
def test_a_server_that_does_not_speak_git_ends_in_a_sentence(fetch, answer) -> None:
    with LocalServer(answer).running() as server, pytest.raises((DataError, SpecError)) as caught:
        fetch(f"{server.uri}/x", "a" * 40)
    assert str(caught.value).startswith(f"spec.module.git.url {server.uri}/x ")


def test_a_server_that_is_away_ends_in_a_sentence(fetch) -> None:
    with pytest.raises(DataError, match=r"cannot be fetched .*check the address and the pod's way out"):
        fetch("http://127.0.0.1:9/x", "a" * 40)


def test_too_much_is_refused_while_it_comes(server, fetch, monkeypatch) -> None:
    revision = server.commit("large", {"data.bin": os.urandom(60_000).hex()})
    monkeypatch.setattr(git, "PACK_BYTES", 20_000)
    with pytest.raises(SpecError, match="sends more than 0 MiB for one commit; large data belongs into the data set"):
        fetch(f"{server.uri}/large", revision)


def test_too_much_is_refused_when_it_is_unpacked(server, fetch, monkeypatch) -> None:
    revision = server.commit("zeros", {"zeros.txt": "0" * 200_000})
    monkeypatch.setattr(git, "CODE_BYTES", 100_000)
    with pytest.raises(SpecError, match=r"holds more than .* large data belongs into the data set"):
        fetch(f"{server.uri}/zeros", revision)


def test_a_session_that_is_stopped_fetches_nothing(server, fetch) -> None:
    revision = server.commit("some", {"a.py": "a"})
    with pytest.raises(Stopped):
        fetch(f"{server.uri}/some", revision, stop=lambda: True)
