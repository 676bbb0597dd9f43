from __future__ import annotations

import hashlib
import io
import os
import socket

import pytest

from local_server import LocalServer, chunked, content, hang_up, status
from pictures import go_on, layout, quiet, stop_at, write_tar
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.datasets import download as downloads
from trainingsession_trainer.datasets import files, open_dataset
from trainingsession_trainer.datasets.download import RETRY_SECONDS, download
from trainingsession_trainer.datasets.fetch import fetch
from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Dataset, FileSource

# Endless as far as a test needs it: one that fails must not fill the disk.
ENDLESS = [b"x" * 100_000] * 1000
BODY = bytes(range(256)) * 10_000
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def serve():
    """Start a server with the answers that are given."""
    running = []

    def start(*answers):
        running.append(LocalServer(*answers).running())
        return running[-1].__enter__()

    yield start
    for each in running:
        each.__exit__(None, None, None)


class Clock:
    """Time that passes while somebody pauses, and not otherwise."""

    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def fetched(tmp_path, uri, sha256=None, claim=None, stop=go_on):
    mount = tmp_path / "mount"
    return fetch(FileSource(uri, claim, sha256), "spec.dataset", mount, tmp_path / "work/download", quiet(), stop)


def downloaded(tmp_path, uri, clock=None, stop=go_on, out=None):
    clock = clock or Clock()
    reporter = Reporter(out or io.StringIO())
    target = tmp_path / "download"
    return download(uri, "spec.dataset", target, reporter, stop, clock=clock, pause=clock.pause)


def test_a_file_is_downloaded_and_checked_against_its_digest(tmp_path, serve):
    server = serve(content(BODY))
    path = fetched(tmp_path, f"{server.uri}/flowers.tar?version=2", DIGEST)
    assert path.read_bytes() == BODY
    assert server.paths == ["/flowers.tar?version=2"]


def test_another_digest_is_refused_at_once_and_both_are_named(tmp_path, serve):
    server = serve(content(BODY))
    with pytest.raises(DataError) as caught:
        fetched(tmp_path, f"{server.uri}/a.tar", "0" * 64)
    assert str(caught.value) == (
        f"spec.dataset.sha256 is {'0' * 64}, but {server.uri}/a.tar has {DIGEST}; correct the digest or the address."
    )
    assert len(server.paths) == 1


def test_an_answer_in_chunks_is_whole_too(tmp_path, serve):
    server = serve(chunked([b"x" * 1000] * 300))
    assert fetched(tmp_path, server.uri).read_bytes() == b"x" * 300_000


@pytest.mark.parametrize(
    ("last", "asked"),
    [
        ("/x/images", "/x/images"),
        ("/%2e%2e", "/%2e%2e"),
        ("/", "/"),
        ("", "/"),
        ("/a%00b", "/a%00b"),
        ("/" + "x" * 300, "/" + "x" * 300),
        ("/däta.tar", "/d%C3%A4ta.tar"),
        ("/a.tar?sig=ü&x=%20", "/a.tar?sig=%C3%BC&x=%20"),
        ("/a|b<c>.tar", "/a%7Cb%3Cc%3E.tar"),
    ],
)
def test_an_address_is_asked_for_as_it_is_and_names_no_file(tmp_path, serve, last, asked):
    files = layout(cat=5, dog=5)
    archive = write_tar(tmp_path / "a.tar", files).read_bytes()
    server = serve(content(archive))
    spec = parse_spec({"dataset": {"uri": server.uri + last}, "baseModel": {"name": "MobileNet"}})

    found = open_dataset(spec.dataset, tmp_path / "work", quiet(), go_on)

    assert len(found.train) == 8
    assert server.paths == [asked]


@pytest.mark.parametrize(
    "uri",
    [
        "https://.example.com/a.tar",
        "http://[::1/a.tar",
        "http://127.0.0.1:port/a.tar",
        "http://127.0.0.1:99999/a.tar",
        "http://127.0.0.1%00/a.tar",
        f"http://{'x' * 80}.example.com/a.tar",
        "http://example.com/\ud800.tar",
    ],
)
def test_an_address_that_cannot_be_opened_is_the_spec_s_fault(tmp_path, uri):
    with pytest.raises(SpecError) as caught:
        downloaded(tmp_path, uri)
    assert str(caught.value).startswith("spec.dataset.uri is '")
    assert "which is no address that can be opened (" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.tar", "data:,hello"])
def test_a_redirect_to_another_scheme_is_refused(tmp_path, serve, target):
    server = serve(status(302, Location=target))
    with pytest.raises(DataError, match=r"cannot be downloaded \(HTTP 302 .*not allowed\)"):
        downloaded(tmp_path, f"{server.uri}/a.tar")
    assert not (tmp_path / "download").exists()
    assert len(server.paths) == 1


def test_a_redirect_to_http_is_followed(tmp_path, serve):
    server = serve(content(BODY))
    other = serve(status(302, Location=f"{server.uri}/real.tar"))
    assert fetched(tmp_path, f"{other.uri}/a.tar").read_bytes() == BODY


@pytest.mark.parametrize(
    ("hiccup", "words"),
    [
        (status(500), "HTTP 500 Internal Server Error"),
        (status(503), "HTTP 503 Service Unavailable"),
        (status(429), "HTTP 429 Too Many Requests"),
        (hang_up, "Remote end closed connection without response"),
        (content(BODY[:1000], length=len(BODY)), "it ended after 1,000 of 2,560,000 bytes"),
        (chunked([b"x" * 1000], complete=False), "it ended early"),
    ],
)
def test_a_hiccup_of_the_network_is_told_and_tried_again(tmp_path, serve, hiccup, words):
    server, clock, out = serve(hiccup, hiccup, content(BODY)), Clock(), io.StringIO()

    assert downloaded(tmp_path, server.uri, clock, out=out) == DIGEST

    assert (tmp_path / "download").read_bytes() == BODY
    assert len(server.paths) == 3
    assert clock.now == 1 + 2
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines[1].startswith(f"The download failed ({words}")
    assert lines[1].endswith("); trying again in 1 s")
    assert lines[2].endswith("); trying again in 2 s")


def test_a_server_that_stays_away_is_given_up_after_two_minutes(tmp_path, serve):
    server, clock = serve(status(503)), Clock()
    with pytest.raises(DataError) as caught:
        downloaded(tmp_path, f"{server.uri}/a.tar", clock)
    assert str(caught.value) == (
        f"spec.dataset.uri {server.uri}/a.tar cannot be downloaded (HTTP 503 Service Unavailable); "
        "check the address and the pod's way out of the cluster."
    )
    assert RETRY_SECONDS - 30 < clock.now <= RETRY_SECONDS
    assert max(clock.pauses) <= 1
    assert 6 <= len(server.paths) <= 10


def test_a_port_where_nobody_listens_is_tried_again(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        clock = Clock()
        with pytest.raises(DataError, match="Connection refused"):
            downloaded(tmp_path, f"http://127.0.0.1:{unused.getsockname()[1]}/", clock)
    assert clock.now > 60


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_what_the_server_refuses_is_final_at_once(tmp_path, serve, code):
    server, clock = serve(status(code)), Clock()
    with pytest.raises(DataError, match=f"HTTP {code} "):
        downloaded(tmp_path, server.uri, clock)
    assert (len(server.paths), clock.now) == (1, 0)


def test_a_session_is_stopped_between_chunks_of_a_download(tmp_path, serve):
    server = serve(chunked(ENDLESS))
    with pytest.raises(Stopped, match="Stopped while a file was downloaded; the next attempt does it again"):
        downloaded(tmp_path, server.uri, stop=stop_at(20))


def test_a_session_is_stopped_while_it_waits_for_the_server(tmp_path, serve):
    server, clock = serve(status(503)), Clock()
    with pytest.raises(Stopped):
        downloaded(tmp_path, server.uri, clock, stop=lambda: clock.now >= 40)
    assert clock.now == 40


def test_an_endless_answer_ends_where_the_disk_has_no_more_room(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(downloads, "free_bytes", lambda folder: 5_000_000 - (folder / "download").stat().st_size)
    server = serve(chunked(ENDLESS))
    with pytest.raises(DataError, match=r"does not fit on the disk: .* bytes are still to come and .* may be written"):
        downloaded(tmp_path, server.uri)
    assert 4_000_000 < (tmp_path / "download").stat().st_size <= 5_000_000
    assert len(server.paths) == 1


def test_a_reserve_of_the_disk_is_left_alone(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(files, "RESERVE_BYTES", 1 << 62)
    with pytest.raises(DataError, match=r"1,000,000 bytes are still to come and 0 may be written"):
        downloaded(tmp_path, serve(content(BODY[:1_000_000])).uri)
    assert not (tmp_path / "download").stat().st_size


def test_more_than_the_pod_s_disk_is_refused_before_its_first_byte_and_the_field_is_named(tmp_path, serve):
    disk = files.Disk(tmp_path, files.RESERVE_BYTES + 1_000)
    with pytest.raises(DataError, match=r"1,001 bytes .* and 1,000 may be written; raise spec\.resources\.ephemeral"):
        download(serve(content(BODY[:1_001])).uri, "spec.dataset", tmp_path / "download", quiet(), go_on, disk)
    assert not (tmp_path / "download").stat().st_size


def test_a_file_that_says_to_be_larger_than_the_disk_is_refused_before_its_first_byte(tmp_path, serve):
    server = serve(content(b"", length=1 << 60))
    with pytest.raises(DataError, match=r"1,152,921,504,606,846,976 bytes are still to come"):
        downloaded(tmp_path, server.uri)


def test_a_disk_that_is_full_is_not_taken_for_the_network(tmp_path, serve):
    server = serve(content(BODY))
    (tmp_path / "download").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"does not fit on the disk; use a node with a larger disk"):
        downloaded(tmp_path, server.uri)
    assert len(server.paths) == 1


@pytest.fixture
def claim(tmp_path):
    """A mounted claim with a file and a folder."""
    (tmp_path / "mount/sets/images").mkdir(parents=True)
    (tmp_path / "mount/sets/a b.tar").write_bytes(BODY)
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "mount"


def test_a_file_on_a_claim_is_found_and_checked(tmp_path, claim):
    assert fetched(tmp_path, "file:///sets/a%20b.tar", DIGEST, "data") == claim / "sets/a b.tar"
    with pytest.raises(DataError, match=f"but file:///sets/a%20b.tar has {DIGEST}; correct the digest"):
        fetched(tmp_path, "file:///sets/a%20b.tar", "0" * 64, "data")


def test_a_folder_on_a_claim_is_given_as_it_is_but_has_no_digest(tmp_path, claim):
    assert fetched(tmp_path, "file:///sets/images", claim="data") == claim / "sets/images"
    with pytest.raises(DataError, match="sha256 is set, but file:///sets is a folder; remove it or name an archive"):
        fetched(tmp_path, "file:///sets", DIGEST, "data")


def test_a_link_inside_of_a_claim_is_followed(tmp_path, claim):
    (claim / "newest.tar").symlink_to("sets/a b.tar")
    assert fetched(tmp_path, "file:///newest.tar", DIGEST, "data").read_bytes() == BODY


@pytest.mark.parametrize(
    "uri", ["file:///../secret", "file:///sets/%2e%2e/..%2fsecret", "file:///link", "file:///up/a"]
)
def test_a_path_that_leads_out_of_the_claim_is_refused(tmp_path, claim, uri):
    (claim / "link").symlink_to("../secret")
    (claim / "up").symlink_to("/")
    with pytest.raises(DataError, match=r"on claim data leads out of the claim; name a path inside it"):
        fetched(tmp_path, uri, claim="data")


@pytest.mark.parametrize("claim_name", ["data", None])
def test_a_missing_file_is_named(tmp_path, claim, claim_name):
    with pytest.raises(DataError, match=r"spec.dataset.uri file:///gone.tar .*does not exist; check the path"):
        fetched(tmp_path, "file:///gone.tar", claim=claim_name)


@pytest.mark.parametrize("claim_name", ["data", None])
@pytest.mark.parametrize("name", ["a%00b", "x" * 300, "circle", "%ff"])
def test_a_path_that_no_file_can_have_is_refused(tmp_path, claim, claim_name, name):
    (claim / "circle").symlink_to("circle")
    with pytest.raises(DataError, match=r"^spec.dataset.uri file:///"):
        fetched(tmp_path, f"file:///{name}", claim=claim_name)


def test_what_is_neither_a_file_nor_a_folder_is_refused(tmp_path, claim):
    os.mkfifo(claim / "pipe")
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        fetched(tmp_path, "file:///pipe", DIGEST, "data")


def test_a_session_is_stopped_while_a_file_on_a_claim_is_checked(tmp_path, claim):
    with pytest.raises(Stopped, match="Stopped while a file was checked"):
        fetched(tmp_path, "file:///sets/a%20b.tar", DIGEST, "data", stop_at(2))


def test_a_data_set_that_holds_no_image_is_called_by_its_address(tmp_path, serve):
    server = serve(content(write_tar(tmp_path / "a.tar", {"readme.txt": b"hello"}).read_bytes()))
    dataset = Dataset(uri=f"{server.uri}/flowers.tar")
    with pytest.raises(DataError, match=f"{server.uri}/flowers.tar holds no image"):
        open_dataset(dataset, tmp_path / "work", quiet(), go_on)


def test_digits_need_no_file(tmp_path):
    assert len(open_dataset(Dataset(name="digits"), tmp_path, quiet(), go_on).train) == 1442
    assert not list(tmp_path.iterdir())
