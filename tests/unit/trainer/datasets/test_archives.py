from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import random
import stat
import tarfile
import zipfile

import pytest

from pictures import go_on, png, stop_at, write_folder, write_tar, write_zip
from trainingsession_trainer.datasets import archives, files
from trainingsession_trainer.datasets.archives import scan, unpack
from trainingsession_trainer.datasets.files import Disk
from trainingsession_trainer.datasets.known_files import KnownFiles
from trainingsession_trainer.errors import DataError, Stopped

SUFFIXES = frozenset({".png", ".jpg"})
FILES = {"train/cat/a.png": png(1), "train/dog/b.JPG": png(2), "readme.txt": b"hello" * 5000}
BLOCK = tarfile.BLOCKSIZE


def unpacked(archive, stop=go_on):
    return unpack(archive, archive.parent / "images", SUFFIXES, stop)


def refused(archive):
    with pytest.raises(DataError) as caught:
        unpacked(archive)
    return str(caught.value)


def tar_of(path, *headers, mode="w"):
    """Pack headers alone: (type, name, size, content) each; the size may be a lie."""
    raw = b""
    for kind, name, size, content in headers:
        header = tarfile.TarInfo(name)
        header.type, header.size, header.linkname = kind, size, "/etc/passwd"
        raw += header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)
    raw += bytes(2 * BLOCK)
    path.write_bytes(gzip.compress(raw) if mode == "w:gz" else raw)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_images_of_a_tar_are_unpacked_under_names_of_our_own(tmp_path, mode, form):
    archive = write_tar(tmp_path / "a.tar", FILES, mode, format=form)
    stored = unpacked(archive)
    assert [str(item.name) for item in stored] == ["train/cat/a.png", "train/dog/b.JPG"]
    assert [item.path.name for item in stored] == ["00000000.png", "00000001.jpg"]
    assert [item.path.read_bytes() for item in stored] == [png(1), png(2)]
    assert [item.digest for item in stored] == [hashlib.sha256(png(1)).digest(), hashlib.sha256(png(2)).digest()]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_of_a_zip_are_unpacked_whatever_its_name(tmp_path, compression):
    stored = unpacked(write_zip(tmp_path / "download", FILES, compression))
    assert [str(item.name) for item in stored] == ["train/cat/a.png", "train/dog/b.JPG"]
    assert [item.path.read_bytes() for item in stored] == [png(1), png(2)]


def test_a_tar_with_a_zip_as_its_last_member_is_a_tar(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", FILES).read_bytes()
    stored = unpacked(write_tar(tmp_path / "PK.tar", {"PK/a.png": png(1), "inner.zip": inner}))
    assert [str(item.name) for item in stored] == ["PK/a.png"]


def test_long_names_are_kept(tmp_path):
    name = "train/" + "x" * 200 + "/" + "y" * 200 + ".png"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        archive = write_tar(tmp_path / "a.tar", {name: png(1)}, format=form)
        assert [str(item.name) for item in unpacked(archive)] == [name]


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("name", ["../../evil.png", "train/../../evil.png", "/tmp/evil.png", "..\\..\\evil.png"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, write, name):
    sentence = refused(write(tmp_path / "a", {"train/cat/a.png": png(1), name: png(2)}))
    assert "evil.png in the archive leads out of the folder it is unpacked to" in sentence
    assert not list(tmp_path.parent.rglob("evil.png"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    sentence = refused(tar_of(tmp_path / "a.tar", (kind, "train/cat/a.png", 0, b"")))
    assert sentence == "train/cat/a.png in the archive is a link or a device; pack the file itself."


def test_links_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        link = zipfile.ZipInfo("train/cat/a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
    assert refused(tmp_path / "a.zip") == "train/cat/a.png in the archive is a link; pack the file itself."


def test_sparse_files_in_a_tar_are_refused(tmp_path):
    for form in ("0.1", "1.0"):
        header = tarfile.TarInfo("a.png")
        header.size = BLOCK
        header.pax_headers = {
            "GNU.sparse.major": form[0], "GNU.sparse.minor": form[2], "GNU.sparse.size": "9", "GNU.sparse.map": "0,9",
        }  # fmt: skip
        if form == "1.0":
            del header.pax_headers["GNU.sparse.map"]
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as packed:
            packed.addfile(header, io.BytesIO(b"1\n" * (BLOCK // 2)))
        assert "a sparse file" in refused(tmp_path / "a.tar")


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_an_archive_that_grows_too_much_is_refused_before_it_is_written(tmp_path, form, monkeypatch):
    monkeypatch.setattr(archives, "ANY_TOTAL", 10 << 20)
    bomb = {f"train/cat/{number}.png": bytes(4 << 20) for number in range(5)}
    archive = write_tar(tmp_path / "a", bomb, "w:gz") if form == "tar" else write_zip(tmp_path / "a", bomb)

    sentence = refused(archive)

    assert sentence.startswith("The images up to train/cat/2.png have 12,582,912 bytes, more than the 10,485,760 that")
    assert sum(path.stat().st_size for path in (tmp_path / "images").iterdir()) == 8 << 20


def test_an_archive_of_real_size_may_hold_a_hundred_times_as_much(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ANY_TOTAL", 0)
    assert len(unpacked(write_tar(tmp_path / "a.tar", FILES))) == 2


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_an_image_file_of_a_monstrous_size_is_refused(tmp_path, form, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 20)
    files = {"train/cat/a.png": bytes(2 << 20)}
    archive = write_tar(tmp_path / "a", files) if form == "tar" else write_zip(tmp_path / "a", files)
    assert refused(archive) == "train/cat/a.png has 2,097,152 bytes, more than 1,048,576; make the image smaller."


def test_a_disk_without_room_above_the_reserve_is_said_to_be_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESERVE_BYTES", 1 << 62)
    sentence = refused(write_tar(tmp_path / "a.tar", FILES))
    assert sentence.endswith("bytes and the disk has room for 0; use a node with a larger disk.")


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_what_is_more_than_the_pod_s_disk_is_refused_and_the_field_is_named(tmp_path, form):
    content = {"train/cat/a.png": bytes(6_000), "train/cat/b.png": bytes(6_000)}
    archive = {"tar": write_tar, "zip": write_zip}[form](tmp_path / "a", content)
    (tmp_path / "other").write_bytes(bytes(50_000))
    used = archive.stat().st_size + 50_000
    with pytest.raises(DataError) as caught:
        unpack(archive, tmp_path / "images", SUFFIXES, go_on, Disk(tmp_path, files.RESERVE_BYTES + used + 10_000))
    assert (
        str(caught.value)
        == {
            # A zip says beforehand what it holds, a tar only as it comes.
            "zip": "The images in the archive have 12,000 bytes, and 10,000 may be written; "
            "raise spec.resources.ephemeralStorage.",
            "tar": "train/cat/b.png has 6,000 bytes and the disk has room for 4,000; "
            "raise spec.resources.ephemeralStorage.",
        }[form]
    )
    assert len(list((tmp_path / "images").iterdir())) == {"zip": 0, "tar": 1}[form]


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_name_that_is_there_twice_is_refused(tmp_path, form):
    if form == "tar":
        archive = tar_of(tmp_path / "a", *[(tarfile.REGTYPE, "train/cat/a.png", 1, b"x")] * 2)
    else:
        archive = write_zip(tmp_path / "a", {"train/cat/a.png": b"x"})
        with zipfile.ZipFile(archive, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("train/cat/a.png", b"y")
    assert refused(archive).startswith("train/cat/a.png is in the archive twice; pack it once")


def test_a_disk_that_is_full_is_not_called_damage(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/00000001.jpg").symlink_to("/dev/full")
    sentence = refused(write_tar(tmp_path / "a.tar", FILES))
    assert sentence == "The disk is full after train/cat/a.png; use a node with a larger disk."


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_header_of_gigabytes_is_refused_before_it_is_read(tmp_path, kind, mode):
    archive = tar_of(tmp_path / "a.tar", (kind, "long", 8 << 30, bytes(BLOCK)), mode=mode)
    assert "(a header of 8,589,934,592 bytes)" in refused(archive)


def test_a_small_block_of_bzip2_is_not_unpacked_in_one_piece(tmp_path):
    import tracemalloc

    header = tarfile.TarInfo("zeros.txt")
    header.size = 64 << 20
    raw = header.tobuf() + bytes(header.size)
    (tmp_path / "a.tar").write_bytes(bz2.compress(raw + bytes(2 * BLOCK)))
    del raw
    tracemalloc.start()
    assert unpacked(tmp_path / "a.tar") == []
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 << 20


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_packed_in_another_way_than_deflate_is_refused(tmp_path, compression):
    sentence = refused(write_zip(tmp_path / "a.zip", FILES, compression))
    assert sentence == "train/cat/a.png in the archive is not packed with deflate, as zip does; pack it with that."


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.8])
def test_an_archive_that_is_cut_off_anywhere_is_refused(tmp_path, mode, share):
    random_bytes = random.Random(0).randbytes
    content = {f"train/cat/{number}.png": random_bytes(3000) for number in range(20)}
    archive = write_tar(tmp_path / "a.tar", content, mode)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    sentence = refused(archive)
    assert sentence.startswith("The archive cannot be unpacked")
    assert "damaged, cut off, or neither tar nor zip: pack it again." in sentence


def test_a_tar_that_is_cut_off_between_two_members_is_refused_too(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {f"cat/{number}.png": png(number) for number in range(20)})
    whole = archive.read_bytes()
    for cut in range(0, 20 * 2 * BLOCK, BLOCK):
        archive.write_bytes(whole[:cut])
        assert "it ends before its end mark" in refused(archive) or "is cut off" in refused(archive)


def test_a_zip_that_is_cut_off_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", FILES)
    whole = archive.read_bytes()
    for cut in range(0, len(whole), 7):
        archive.write_bytes(whole[:cut])
        assert "cannot be unpacked" in refused(archive)


def test_a_damaged_header_in_the_middle_does_not_end_the_archive_early(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {f"cat/{number}.png": png(number) for number in range(20)})
    whole = bytearray(archive.read_bytes())
    whole[20 * BLOCK + 1] ^= 0xFF
    archive.write_bytes(whole)
    assert "after cat/9.png (bad checksum of a member)" in refused(archive)


@pytest.mark.parametrize("text", ["x,y", "", "9" * 5000])
def test_numbers_that_are_none_are_damage(tmp_path, text):
    header = tarfile.TarInfo("a.png")
    header.pax_headers = {"GNU.sparse.map": text}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as packed:
        packed.addfile(header)
    assert "cannot be unpacked (" in refused(tmp_path / "a.tar")


def test_a_zip_with_a_name_that_only_says_to_be_utf8_is_damaged(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"\xe4.png": png(1)})
    archive.write_bytes(archive.read_bytes().replace("\xe4".encode(), b"\xff\xff"))
    assert "cannot be unpacked ('utf-8' codec can't decode byte" in refused(archive)


def test_a_member_that_says_to_be_endless_does_not_keep_the_session_busy(tmp_path):
    archive = tar_of(tmp_path / "a.tar", (tarfile.REGTYPE, "large.txt", 1 << 60, b""))
    assert "it ends before its end mark" in refused(archive)


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>Not found</html>" * 1000, b"PK\x03\x04", b"\x1f\x8b\x08"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert "neither tar nor zip" in refused(tmp_path / "a")


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_of_nothing_holds_no_image(tmp_path, write):
    assert unpacked(write(tmp_path / "a", {})) == []


def test_damage_anywhere_in_an_archive_is_a_sentence_and_never_a_bug(tmp_path):
    made = random.Random(0)
    for form in ("tar", "tar.gz", "zip"):
        source = tmp_path / form
        write = write_zip if form == "zip" else write_tar
        whole = write(source, FILES, **({"mode": "w:gz"} if form == "tar.gz" else {})).read_bytes()
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(made.choice((1, 3, 20))):
                damaged[made.randrange(len(damaged))] = made.randrange(256)
            source.write_bytes(damaged)
            try:
                unpacked(source)
            except DataError as error:
                str(error).encode()


def test_names_that_are_not_utf8_are_told_apart_and_can_be_stored(tmp_path):
    names = ["K\udce4se/a.png", "K\udcf6se/a.png"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        archive = write_tar(tmp_path / "a.tar", {name: png(1) for name in names}, format=form)
        assert [str(item.name) for item in unpacked(archive)] == [r"K\xe4se/a.png", r"K\xf6se/a.png"]
    folder = write_folder(tmp_path / "folder", {name: png(1) for name in names})
    assert [str(item.name) for item in scan(folder, SUFFIXES, go_on, KnownFiles())] == [
        r"K\xe4se/a.png",
        r"K\xf6se/a.png",
    ]


def test_sentences_about_names_that_are_not_utf8_can_be_stored(tmp_path):
    for kind, name in ((tarfile.SYMTYPE, "\udce4.png"), (tarfile.REGTYPE, "../\udce4.png")):
        assert r"\xe4.png in the archive" in refused(tar_of(tmp_path / "a.tar", (kind, name, 0, b"")))


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_a_session_is_stopped_between_members_and_chunks(tmp_path, form):
    content = {f"train/cat/{number}.png": bytes(3 << 20) for number in range(3)}
    path = tmp_path / "a"
    write = {"tar": lambda: write_tar(path, content), "tar.gz": lambda: write_tar(path, content, "w:gz")}
    archive = write.get(form, lambda: write_zip(path, content))()
    with pytest.raises(Stopped, match="Stopped while the images were unpacked; the next attempt does it again"):
        unpacked(archive, stop_at(6))


def test_a_session_is_stopped_while_other_files_than_images_are_passed_over(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"large.txt": bytes(10 << 20)}, "w:gz")
    with pytest.raises(Stopped):
        unpacked(archive, stop_at(10))
