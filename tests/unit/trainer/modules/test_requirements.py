"""A lock with hashes is installed by the real installer from a real index folder; everything else is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest

from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.modules.requirements import install, present_packages, read_lock, to_install
from trainingsession_trainer.reporting import Reporter

HASH = "--hash=sha256:" + "a" * 64


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index that holds one wheel, tsgreeting 1.0; gives the wheel's hash."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tsgreeting-1.0-py3-none-any.whl"
    info = "tsgreeting-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tsgreeting.py", "WORD = 'hello'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tsgreeting\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"tsgreeting.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def run(tmp_path):
    code = tmp_path / "code"
    code.mkdir()

    def go(lock: str | None, stop=lambda: False):
        if lock is not None:
            (code / "requirements.txt").write_text(lock)
        install(code, tmp_path / "packages", Reporter(io.StringIO()), stop)
        return tmp_path / "packages"

    return go


def test_a_lock_is_installed_into_the_folder(index, run) -> None:
    numpy = present_packages()["numpy"]
    lock = f"# made by uv\ntsgreeting==1.0 \\\n    --hash=sha256:{index}\n    # via me\nnumpy=={numpy} {HASH}\n"
    folder = run(lock)
    assert (folder / "tsgreeting.py").read_text() == "WORD = 'hello'\n"
    assert not (folder / "numpy").exists(), "the trainer's own is used"


def test_without_a_lock_nothing_is_installed(run) -> None:
    assert not run(None).exists()


def test_another_hash_is_refused(index, run) -> None:
    with pytest.raises(SpecError, match=r"names other hashes than the index has .*compile it again"):
        run(f"tsgreeting==1.0 {HASH}")


def test_a_version_that_the_index_does_not_have_ends_in_a_sentence(index, run) -> None:
    with pytest.raises(DataError, match=r"cannot be installed .*tsgreeting==2\.0"):
        run(f"tsgreeting==2.0 {HASH}")


def test_a_session_that_is_stopped_ends_the_installer(index, run) -> None:
    with pytest.raises(Stopped):
        run(f"tsgreeting==1.0 --hash=sha256:{index}", stop=lambda: True)


@pytest.mark.parametrize(
    ("lock", "sentence"),
    [
        ("requests==2.0", "pins requests without a --hash=sha256:"),
        ("requests>=2.0", "has the line 'requests>=2.0'; every line must pin a package"),
        ("requests==2.*  " + HASH, "every line must pin a package"),
        ("-r other.txt", "has the line '-r other.txt'"),
        ("--index-url https://evil.example", "every line must pin"),
        ("git+https://example.org/x.git", "every line must pin"),
        ("-e .", "every line must pin"),
        ("x @ https://example.org/x.whl " + HASH, "every line must pin"),
        ("requests==2.0 --hash=md5:" + "a" * 32, "pins requests without a --hash=sha256:"),
    ],
)
def test_a_line_that_pins_nothing_is_refused(lock: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_lock(lock)
    assert sentence in str(caught.value)


def test_another_version_of_what_the_trainer_has_is_refused() -> None:
    pins = read_lock(f"Zope.Interface==5 {HASH}\nnumpy==1.0; python_version > '3' {HASH}")
    with pytest.raises(SpecError, match=r"pins numpy==1\.0, and the trainer has 2\.3; compile it with the constraint"):
        to_install(pins, {"numpy": "2.3"})
    assert [pin.name for pin in to_install(pins, {"numpy": "1.0+cpu"})] == ["zope-interface"]
