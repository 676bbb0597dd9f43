"""One commit of a git repository, fetched over https without a git binary and bounded in size; nothing of it is run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_ISDIR, S_ISREG
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.structure import clip, shown

if TYPE_CHECKING:
    from dulwich.objects import ObjectID
    from dulwich.refs import Ref
    from dulwich.repo import Repo

Stop = Callable[[], bool]

PACK_BYTES = 64 << 20
"""Of the repository at that commit, as it comes over the network."""
CODE_BYTES, CODE_FILES = 128 << 20, 10_000
"""Of the folder that is used, once it is unpacked."""
NETWORK_SECONDS = 30.0
TRIES = 4
_REMEDY = "large data belongs into the data set or an image"


class TooLargeError(Exception):
    """The pack is larger than is taken."""


def fetch_code(
    url: str,
    revision: str,
    path: str,
    target: Path,
    credentials: tuple[str, str] | None,
    reporter: Reporter,
    stop: Stop,
) -> None:
    """Write the folder `path` of commit `revision` into `target`; raises SpecError, DataError, Stopped.

    The network is tried for about a minute. Links and submodules are left out.
    """
    # Heavy, and only needed here.
    from dulwich.repo import Repo

    reporter.info(f"Fetching commit {revision} of {url}")
    with tempfile.TemporaryDirectory(prefix="git-", dir=target.parent) as folder:
        # A commit names by its length how the repository names its objects.
        repository = Repo.init_bare(folder, object_format="sha256" if len(revision) == 64 else "sha1")
        try:
            _fetch(repository, url, revision, credentials, reporter, stop)
            files = _write(repository, revision, path, url, target)
        finally:
            repository.close()
    reporter.info(f"Fetched {files} files")


def _fetch(
    repository: Repo, url: str, revision: str, credentials: tuple[str, str] | None, reporter: Reporter, stop: Stop
) -> None:
    for turn in range(TRIES):
        if stop():
            raise Stopped("Stopped while the module was fetched; the next attempt fetches it again.")
        problem = _attempt(repository, url, revision, credentials, stop)
        if problem is None:
            return
        if turn + 1 < TRIES:
            reporter.info(f"Fetching failed ({problem}); trying again in {2**turn} s")
            time.sleep(2**turn)
    raise DataError(
        f"spec.module.git.url {url} cannot be fetched ({problem}); "
        "check the address and the pod's way out of the cluster."
    )


def _attempt(repository: Repo, url: str, revision: str, credentials: tuple[str, str] | None, stop: Stop) -> str | None:
    """Fetch once; gives what went wrong where it may pass by itself."""
    import urllib3
    from dulwich.client import HTTPProxyUnauthorized, HTTPUnauthorized, Urllib3HttpGitClient
    from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
    from dulwich.objects import ObjectID

    parts = urlsplit(url)
    name, password = credentials or (None, None)
    client = Urllib3HttpGitClient(
        f"{parts.scheme}://{parts.netloc}", username=name, password=password, timeout=NETWORK_SECONDS, thin_packs=False
    )

    def wanted(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
        del refs, depth
        return [ObjectID(revision.encode())]

    file, commit, abort = repository.object_store.add_pack()
    written = False
    try:
        client.fetch_pack(
            parts.path,
            wanted,
            repository.get_graph_walker(heads=[]),
            _bounded(file, stop),
            depth=1,
        )
        written = True
        commit()
    except TooLargeError as error:
        raise SpecError(
            f"spec.module.git.url {url} sends more than {PACK_BYTES >> 20} MiB for one commit; {_REMEDY}."
        ) from error
    except HTTPProxyUnauthorized as error:
        raise DataError(
            f"spec.module.git.url {url} is behind a proxy that asks for a password; "
            "let it know the trainers by their addresses (trainer.proxy of the chart)."
        ) from error
    except HTTPUnauthorized as error:
        asked = "refuses the user and password of spec.module.git.secretName" if credentials else "asks for a password"
        raise SpecError(
            f"spec.module.git.url {url} {asked}; name a Secret with username and password that may read it."
        ) from error
    except NotGitRepository as error:
        raise SpecError(f"spec.module.git.url {url} is no git repository; correct the address.") from error
    except (GitProtocolError, HangupException) as error:
        words = clip(" ".join(str(error).split()))
        if isinstance(error, HangupException) or "not our ref" in words or "unadvertised" in words.lower():
            raise SpecError(
                f"spec.module.git.revision {revision} is not given out by {url} ({words}); "
                "push the commit to a branch, or correct it."
            ) from error
        return words
    except urllib3.exceptions.HTTPError as error:
        return clip(" ".join(str(getattr(error, "reason", None) or error).split()))
    except (AssertionError, ValueError, OSError) as error:
        return clip(" ".join(str(error).split())) or type(error).__name__
    finally:
        if not written:
            abort()
    return None


def _bounded(file: IO[bytes], stop: Stop) -> Callable[[bytes], int]:
    taken = 0

    def write(data: bytes) -> int:
        nonlocal taken
        taken += len(data)
        if taken > PACK_BYTES:
            raise TooLargeError
        if stop():
            raise Stopped("Stopped while the module was fetched; the next attempt fetches it again.")
        return file.write(data)

    return write


def _write(repository: Repo, revision: str, path: str, url: str, target: Path) -> int:
    """Write the files of a folder of the commit; objects are found by the digest of what they hold."""
    from dulwich.objects import Commit, Tree

    try:
        commit = repository[revision.encode()]
    except KeyError as error:
        raise SpecError(
            f"spec.module.git.revision {revision} is not in {url}; push the commit, or correct it."
        ) from error
    if not isinstance(commit, Commit):
        raise SpecError(f"spec.module.git.revision {revision} is no commit of {url} but a {commit.type_name.decode()}.")
    tree = commit.tree
    for part in PurePosixPath(path).parts:
        try:
            found = repository[tree]
            mode, tree = found[part.encode()] if isinstance(found, Tree) else (0, tree)
        except KeyError:
            mode = 0
        if not S_ISDIR(mode):
            raise SpecError(
                f"spec.module.git.path is {shown(path)}, which is no folder of commit {revision}; correct it."
            )
    files = total = 0
    for name, data in _blobs(repository, tree, target):
        files, total = files + 1, total + len(data)
        if total > CODE_BYTES or files > CODE_FILES:
            raise SpecError(
                f"spec.module.git.path {shown(path)} holds more than {CODE_BYTES >> 20} MiB or {CODE_FILES:,} files; "
                f"{_REMEDY}."
            )
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(data)
    return files


def _blobs(repository: Repo, tree: ObjectID, folder: Path) -> Iterator[tuple[Path, bytes]]:
    from dulwich.objects import Blob, Tree

    found = repository[tree]
    if not isinstance(found, Tree):
        raise DataError("The repository holds a folder that is none; it is damaged.")
    for entry in found.iteritems():
        name = entry.path.decode("utf-8", "replace")
        if name in ("", ".", "..", ".git") or "/" in name or "\0" in name:
            raise DataError(f"The repository holds a file called {shown(name)}, which is dangerous; remove it.")
        if S_ISDIR(entry.mode) and S_IFMT(entry.mode) == 0o040000:
            yield from _blobs(repository, entry.sha, folder / name)
        elif S_ISREG(entry.mode):
            blob = repository[entry.sha]
            if isinstance(blob, Blob):
                yield folder / name, blob.data
