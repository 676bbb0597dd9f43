from __future__ import annotations

import io
import random
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from pictures import pixels
from trainingsession_trainer.datasets import images
from trainingsession_trainer.datasets.images import FileImages, decode
from trainingsession_trainer.errors import DataError

# Pillow warns of what is malformed on purpose here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

RGB = pixels(3, 5)


def saved(path, image, kind="PNG", **options):
    image.save(path, kind, **options)
    return path


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def shape(path):
    return FileImages([path], ["cat/a"]).shape(0)


def read(path):
    found = FileImages([path], ["cat/a"]).read(0)
    assert found.dtype == np.uint8
    assert found.shape == shape(path)
    return found


def refused(path):
    """The sentence of a file that cannot be decoded."""
    with pytest.raises(DataError) as caught:
        decode(path, "cat/a")
    return str(caught.value)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width, height, *chunks):
    """A PNG of 8-bit RGB with the chunks that are given."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def pixels_chunk(array):
    return chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in array)))


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 90})]
)
def test_every_format_gives_what_pillow_decodes(tmp_path, kind, options):
    path = saved(tmp_path / "a", Image.fromarray(RGB), kind, **options)
    assert np.array_equal(read(path), np.asarray(Image.open(path).convert("RGB")))
    if kind != "JPEG":
        assert np.array_equal(read(path), RGB)


def test_grey_is_repeated(tmp_path):
    found = read(saved(tmp_path / "a", Image.fromarray(RGB[..., 0])))
    assert all(np.array_equal(found[..., band], RGB[..., 0]) for band in range(3))


def test_black_and_white_is_0_and_255(tmp_path):
    found = read(saved(tmp_path / "a", Image.fromarray(RGB[..., 0] > 127)))
    assert np.array_equal(found[..., 1], np.where(RGB[..., 0] > 127, 255, 0))


def test_palettes_are_looked_up(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert read(saved(tmp_path / "a", image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparency_is_composited_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 51)])
    assert read(saved(tmp_path / "a", image)).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert read(saved(tmp_path / "a", image, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_grey_with_alpha_is_composited_on_white(tmp_path):
    image = Image.new("LA", (2, 1))
    image.putdata([(7, 255), (7, 0)])
    assert read(saved(tmp_path / "a", image))[0, :, 0].tolist() == [7, 255]


def test_cmyk_is_converted(tmp_path):
    path = saved(tmp_path / "a", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(read(path).astype(int) - [255, 0, 0]).max() <= 3


def test_cmyk_is_converted_by_its_formula(tmp_path):
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (16, 16, 4), np.uint8), "CMYK")
    path = saved(tmp_path / "a", image, "JPEG", quality=95)
    ink = np.asarray(Image.open(path)).astype(int)
    light = 255 - ink[..., 3:]
    product = ink[..., :3] * light + 128
    assert np.array_equal(read(path), light - (((product >> 8) + product) >> 8))


def test_16_bits_of_colour_keep_the_upper_8(tmp_path):
    deep = np.random.default_rng(3).integers(0, 65536, (2, 3, 3), np.uint16)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)))
    (tmp_path / "a").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
    assert np.array_equal(read(tmp_path / "a"), deep >> 8)


def test_16_bits_are_scaled_to_8(tmp_path):
    image = Image.fromarray(np.array([[0, 257, 128, 129, 65535, 65407]], np.uint16))
    assert read(saved(tmp_path / "a", image))[0, :, 0].tolist() == [0, 1, 0, 1, 255, 255]


def test_one_pixel_is_an_image(tmp_path):
    assert read(saved(tmp_path / "a", Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    path = saved(tmp_path / "a", frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.all(read(path) == [250, 0, 0])


def test_a_picture_of_several_views_is_a_jpeg(tmp_path):
    views = [Image.fromarray(pixels(8, 6, seed)) for seed in range(2)]
    path = saved(tmp_path / "a.jpg", views[0], "MPO", save_all=True, append_images=views[1:], exif=exif_of(6))
    assert Image.open(path).format == "MPO"
    assert np.array_equal(read(path), np.asarray(ImageOps.exif_transpose(Image.open(path))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_exif_orientation_is_applied_as_pillow_does(tmp_path, kind, mode, orientation):
    image = Image.fromarray(pixels(12, 20)).convert(mode)
    path = saved(tmp_path / "a", image, kind, exif=exif_of(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert np.array_equal(read(path), expected)
    assert expected.shape == ((20, 12, 3) if orientation in (5, 6, 7, 8) else (12, 20, 3))


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_is_also_found_in_xmp(tmp_path, orientation):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>')
    path = saved(tmp_path / "a", Image.fromarray(RGB), pnginfo=info)
    assert np.array_equal(read(path), np.asarray(ImageOps.exif_transpose(Image.open(path))))


def test_16_bit_images_and_palettes_are_turned_too(tmp_path):
    deep = saved(tmp_path / "a", Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), exif=exif_of(6))
    assert read(deep)[:, 0, 0].tolist() == [0, 1, 255]
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    turned = saved(tmp_path / "b", image, exif=exif_of(8), transparency=0)
    assert read(turned).tolist() == [[[40, 50, 60]], [[255, 255, 255]]]


NOT_WRITTEN_AGAIN = {
    struct.error: (0x011A, 9, b"n\xe9\xde\x90"),
    TypeError: (0x011A, 7, b"\xce\xad\xbd`"),
    AttributeError: (0x010E, 12, b"\x1a\0\0\0"),
}


def malformed_exif(failure):
    """EXIF with an orientation of 6 and a tag that Pillow reads but fails to write."""
    tag, kind, value = NOT_WRITTEN_AGAIN[failure]
    entries = [struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHI4s", tag, kind, 1, value)]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("failure", NOT_WRITTEN_AGAIN)
def test_exif_that_pillow_cannot_write_again_still_tells_the_orientation(tmp_path, kind, failure):
    path = saved(tmp_path / "a", Image.fromarray(pixels(8, 12)), kind, exif=malformed_exif(failure))
    with pytest.raises(failure):
        ImageOps.exif_transpose(Image.open(path))
    assert read(path).shape == (12, 8, 3)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=40), st.binary(max_size=60), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_malformed_exif_is_never_a_bug(tmp_path_factory, start, rest, kind):
    path = tmp_path_factory.mktemp("exif") / "a"
    saved(path, Image.fromarray(pixels(2, 3)), kind, exif=b"Exif\0\0" + start)
    read(path)
    saved(path, Image.fromarray(pixels(2, 3)), kind, exif=b"Exif\0\0II*\0\x08\0\0\0\x03\0\x12\x01" + rest)
    read(path)


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(5, 3, chunk(b"IDAT", b"no pixels")))
    assert shape(tmp_path / "a.png") == (3, 5, 3)
    assert refused(tmp_path / "a.png").startswith("cat/a cannot be read (")


def test_exif_behind_the_pixels_of_a_png_is_ignored_by_size_and_pixels_alike(tmp_path):
    exif = chunk(b"eXIf", exif_of(6).tobytes().removeprefix(b"Exif\0\0"))
    before, after = tmp_path / "before.png", tmp_path / "after.png"
    before.write_bytes(png_of(5, 3, exif, pixels_chunk(RGB)))
    after.write_bytes(png_of(5, 3, pixels_chunk(RGB), exif))
    assert read(before).shape == (5, 3, 3)
    assert np.array_equal(read(after), RGB)


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "PDF"])
def test_other_formats_under_an_image_s_name_are_refused(tmp_path, kind):
    path = saved(tmp_path / "a.png", Image.fromarray(pixels(16, 16)), kind)
    sentence = "cat/a cannot be read (it is no JPEG, PNG, BMP, GIF or WebP file); repair or remove it."
    assert refused(path) == sentence
    with pytest.raises(DataError, match="it is no JPEG, PNG, BMP, GIF or WebP file"):
        shape(path)


def test_a_format_is_told_by_content_and_not_by_name(tmp_path):
    assert read(saved(tmp_path / "a.png", Image.fromarray(pixels(8, 8)), "JPEG")).shape == (8, 8, 3)


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (20_000, 10_000), (200_000, 200_000)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png_of(width, height, chunk(b"IDAT", b"")))
    for open_image in (shape, read):
        with pytest.raises(DataError, match=r"^cat/a .*(more than 100,000,000|exceeds limit)"):
            open_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_truncated_file_is_refused_with_its_name(tmp_path, kind):
    path = saved(tmp_path / "a", Image.fromarray(pixels(64, 64)), kind)
    path.write_bytes(path.read_bytes()[:-200])
    assert refused(path).startswith("cat/a cannot be read (")
    assert refused(path).endswith("); repair or remove it.")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF0000WEBP"]
)
def test_a_file_of_nothing_but_a_beginning_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert "cat/a cannot be read" in refused(tmp_path / "a")
    assert str(tmp_path) not in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_damage_anywhere_in_a_file_is_a_sentence_and_never_a_bug(tmp_path, kind):
    made = random.Random(0)
    out = io.BytesIO()
    Image.fromarray(pixels(6, 9)).save(
        out, kind, **({} if kind in ("BMP", "GIF") else {"exif": malformed_exif(TypeError)})
    )
    path = tmp_path / "a"
    for _ in range(400):
        damaged = bytearray(out.getvalue())
        for _ in range(made.choice((1, 3, 20))):
            damaged[made.randrange(len(damaged))] = made.randrange(256)
        path.write_bytes(damaged)
        for open_image in (shape, lambda path: decode(path, "cat/a")):
            with suppress(DataError):
                open_image(path)


def test_a_file_that_went_away_is_named(tmp_path):
    assert refused(tmp_path / "gone.png").startswith("cat/a cannot be read (")


def test_the_formats_are_those_that_archives_are_searched_for():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in images.SUFFIXES} == set(images._FORMATS)
