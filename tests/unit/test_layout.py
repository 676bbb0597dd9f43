import re


def test_the_member_folders_do_not_shadow_the_standard_library(repo):
    # `operator/__init__.py` would make Python import this folder for `import operator`.
    assert not (repo / "operator/__init__.py").exists()
    assert not (repo / "trainer/__init__.py").exists()


def test_no_pinned_file_names_an_index(repo):
    for path in (repo / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path
    assert not (repo / "uv.lock").exists()


def test_every_pinned_requirement_has_a_hash(repo):
    for path in (repo / "requirements").glob("*.txt"):
        lines = path.read_text().splitlines()
        pinned = [i for i, line in enumerate(lines) if "==" in line and not line.lstrip().startswith("#")]
        assert pinned, path
        assert all("--hash=sha256:" in lines[i + 1] for i in pinned), path


def test_every_reason_is_documented(repo):
    from trainingsession_operator.status import Reason

    page = (repo / "docs/reasons.md").read_text()
    reasons = [value for name, value in vars(Reason).items() if name.isupper()]
    unexplained = {"NotRunning", "NotFinished"}  # they only say that another condition tells why
    assert {reason for reason in reasons if f" {reason} " not in page and f" {reason}," not in page} == unexplained
    # The first table's second column, and the second table's first.
    told = set(re.findall(r"\b[A-Z]\w+", " ".join(re.findall(r"^\| [^|]+ \| ([A-Z][\w, ]+) \|", page, re.MULTILINE))))
    told |= set(re.findall(r"^\| ([A-Z]\w+) \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE))
    kubernetes = {
        "Unschedulable", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
        "CreateContainerError", "PodPending", "ContainerCreating",
    }  # fmt: skip
    assert told - set(reasons) == kubernetes
