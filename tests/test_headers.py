"""What is looked at before a picture is decoded: nothing that gets past it is a surprise later."""

import contextlib
import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from shared import headers, images, signatures
from shared.errors import BadInput
from shared.headers import Facts

MOST_BYTES = 64 << 20
MOST_PIXELS = 1_000_000
SIZE = (31, 19)  # width, height


def look(data: bytes, **more: bool) -> Facts:
    return headers.look(data, MOST_BYTES, MOST_PIXELS, "photo", **more)


def picture(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """Noise, so that a file of it has many bytes of pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    if mode == "LAB":
        return Image.frombytes("LAB", size, noise[..., :3].tobytes())
    image = Image.fromarray(noise)
    return image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode)


def saved(mode: str, file_format: str, **more: object) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, file_format, **more)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, width: int = 31, height: int = 19, bits: int = 8, color: int = 2) -> bytes:
    """A PNG whose header, checksums and end are right, whatever stands between."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return images.PNG_SIGNATURE + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


IDAT = chunk(b"IDAT", zlib.compress(bytes(19 * (1 + 3 * 31))))
EXIF = Image.Exif()
EXIF[Base.Orientation] = 6
FILES = {
    "png": saved("RGB", "PNG", exif=EXIF),
    "jpeg": saved("RGB", "JPEG", exif=EXIF),
    "webp": saved("RGBA", "WEBP", lossless=True, exif=EXIF),
    "webp, lossy": saved("RGB", "WEBP"),
    "tiff": saved("RGBA", "TIFF", exif=EXIF),
    "tiff, packed": saved("RGB", "TIFF", compression="tiff_lzw"),
}


def test_the_producer_can_look_without_numpy_or_torch() -> None:
    code = "import sys, shared.headers; assert not {'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        *[(saved(mode, "PNG"), ("png", True, mode)) for mode in ("L", "LA", "RGB", "RGBA", "P")],
        *[(saved(mode, "TIFF"), ("tiff", True, mode)) for mode in ("L", "LA", "RGB", "RGBA", "P", "PA")],
        *[(saved("RGB", "TIFF", compression=c), ("tiff", True, "RGB")) for c in ("tiff_lzw", "tiff_adobe_deflate")],
        (saved("RGB", "TIFF", compression="packbits"), ("tiff", True, "RGB")),
        (saved("RGB", "TIFF", compression="jpeg"), ("tiff", False, "RGB")),
        (saved("RGB", "TIFF", big_tiff=True), ("tiff", True, "RGB")),
        (saved("L", "JPEG"), ("jpeg", False, "L")),
        (saved("RGB", "JPEG", progressive=True), ("jpeg", False, "RGB")),
        (saved("RGB", "WEBP"), ("webp", False, "RGB")),
        (saved("RGBA", "WEBP"), ("webp", False, "RGBA")),
        (saved("RGB", "WEBP", lossless=True), ("webp", True, "RGB")),
        (saved("RGBA", "WEBP", lossless=True, exif=EXIF.tobytes()[:14]), ("webp", True, "RGBA")),
    ],
)
def test_the_header_says_format_size_mode_and_whether_pixels_are_exact(
    data: bytes, facts: tuple[str, bool, str]
) -> None:
    found = look(data)
    assert (found.width, found.height) == SIZE
    assert (found.format, found.lossless, found.mode) == facts


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_the_upright_one(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    found = look(saved("RGB", file_format, exif=exif))
    assert (found.width, found.height) == (SIZE if orientation < 5 else SIZE[::-1])


def test_an_orientation_behind_the_pixels_counts_as_well() -> None:
    found = look(png(IDAT, chunk(b"eXIf", EXIF.tobytes()[6:])))
    assert (found.width, found.height) == SIZE[::-1]


def test_xmp_and_texts_named_exif_turn_nothing() -> None:
    xmp = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<a tiff:Orientation="6"/>')
    fake = chunk(b"tEXt", b"exif\0" + EXIF.tobytes())
    found = look(png(xmp, fake, IDAT))
    assert (found.width, found.height) == SIZE


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"no exif at all",
        b"II*\0\xff\xff\xff\xff",  # a directory far behind the end
        b"II*\0\x08\0\0\0\xff\xff",  # 65,535 entries, and none there
        *[struct.pack("<2sHLHHHLHH", b"II", 42, 8, 1, 0x112, 3, 1, value, 0) for value in (0, 9, 65535)],
        struct.pack("<2sHLHHHLL", b"II", 42, 8, 1, 0x112, 4, 1, 6),  # a LONG
        struct.pack("<2sHLHHHLL", b"II", 42, 8, 1, 0x112, 12, 2**31, 8),  # DOUBLEs, 16 GiB of them
    ],
)
def test_an_absurd_orientation_is_no_orientation(exif: bytes) -> None:
    found = look(png(chunk(b"eXIf", exif), IDAT))
    assert (found.width, found.height) == SIZE


@pytest.mark.parametrize(
    ("data", "seems"),
    [
        (b"", "an empty file"),
        (saved("P", "GIF"), "a GIF"),
        (saved("RGB", "BMP"), "a BMP"),
        (saved("RGB", "AVIF"), "an AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "MP4"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"PK\3\4", "a ZIP"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "HTML"),
        (b"just some words\n", "text"),
        (b"RIFF\4\0\0\0WAVE", "unknown"),
        (b"\0\1\2\3", "00 01 02 03"),
    ],
)
def test_what_is_no_picture_for_us_is_called_by_its_name(data: bytes, seems: str) -> None:
    with pytest.raises(BadInput, match=rf"^photo: found .*{seems}.*; expected PNG, JPEG, WebP or TIFF: save it"):
        look(data)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (saved("CMYK", "JPEG"), "CMYK"),
        (saved("CMYK", "TIFF"), "CMYK"),
        (saved("LAB", "TIFF"), "LAB"),
        (saved("I;16", "PNG"), "16 bits"),
        (png(IDAT, bits=16), "16 bits"),
        (png(IDAT, bits=16, color=4), "16 bits"),
        (png(IDAT, bits=16, color=6), "16 bits"),
        (saved("I;16", "TIFF"), "16 bits"),
        (saved("1", "PNG"), "bilevel"),
        (saved("1", "TIFF", compression="group4"), "bilevel"),
        (saved("I", "TIFF"), "numbers"),
        (saved("F", "TIFF"), "numbers"),
        (saved("YCbCr", "TIFF"), "YCbCr"),
        (saved("RGBX", "TIFF"), "extra channel"),
    ],
)
def test_what_could_not_come_back_in_its_own_mode_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(BadInput, match=rf"^photo: found .*{found}.*; expected .*: (convert|save) it"):
        look(data)


@pytest.mark.parametrize("data", [saved("1", "PNG"), saved("I;16", "PNG"), saved("1", "TIFF"), saved("I;16", "TIFF")])
def test_a_mask_may_be_bilevel_or_of_16_bits(data: bytes) -> None:
    assert look(data, mask=True).mode in ("1", "I;16")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (saved("RGB", "PNG", save_all=True, append_images=[Image.new("RGB", SIZE)]), "APNG"),
        (saved("RGB", "WEBP", save_all=True, append_images=[Image.new("RGB", SIZE)]), "animated WebP"),
        (saved("RGB", "TIFF", save_all=True, append_images=[Image.new("RGB", SIZE)]), "several pages"),
    ],
)
def test_one_picture_only(data: bytes, found: str) -> None:
    with pytest.raises(BadInput, match=rf"{found}\)?; expected one picture only"):
        look(data)


def test_a_jpeg_is_its_first_picture_whatever_a_phone_appends() -> None:
    two = saved("RGB", "MPO", save_all=True, append_images=[Image.new("RGB", SIZE)])
    for data in (two, FILES["jpeg"] + b"\0\0\0\x18ftypmp42" + bytes(50_000)):
        assert look(data).format == "jpeg"


def huge_webp() -> bytes:
    head = b"VP8X" + struct.pack("<IB3x", 10, 0) + (2**24 - 1).to_bytes(3, "little") * 2
    body = b"WEBP" + head + FILES["webp, lossy"][12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def huge_jpeg() -> bytes:
    data = FILES["jpeg"]
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def changed_tiff(tag: int, value: int) -> bytes:
    whole = saved("RGB", "TIFF")
    at = whole.index(struct.pack("<HHL", tag, 4, 1)) + 8  # a LONG
    return whole[:at] + struct.pack("<L", value) + whole[at + 4 :]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(IDAT, width=100_000, height=100_000), "100000 x 100000"),
        (huge_webp(), "16777216 x 16777216"),
        (huge_jpeg(), "65535 x 65535"),
        (changed_tiff(Base.ImageWidth, 10**9), "1000000000 x 19"),
        (png(IDAT, width=0), "0 x 19"),
    ],
)
def test_pixels_are_counted_before_any_is_allocated(data: bytes, size: str) -> None:
    with pytest.raises(BadInput, match=f"found {size} pixels"):
        look(data)


def test_exactly_as_many_pixels_and_bytes_as_allowed_are_taken() -> None:
    data, pixels = FILES["png"], SIZE[0] * SIZE[1]
    assert headers.look(data, len(data), pixels).mode == "RGB"
    with pytest.raises(BadInput, match=f"the picture: found {len(data):,} bytes; expected at most {len(data) - 1:,}"):
        headers.look(data, len(data) - 1, pixels)
    with pytest.raises(BadInput, match=f"{pixels}.*; expected at most {pixels - 1}"):
        headers.look(data, len(data), pixels - 1)


def test_the_settings_limit_pixels_and_not_pil() -> None:
    data = png(IDAT, width=20_000, height=20_000)  # PIL by itself refuses 179 million
    assert headers.look(data, MOST_BYTES, 10**9).width == 20_000
    assert Image.MAX_IMAGE_PIXELS is None  # nor does it when it decodes


def test_a_tile_far_larger_than_its_picture_is_refused() -> None:
    directory = ImageFileDirectory_v2()
    for tag, value in {
        Base.ImageWidth: 1, Base.ImageLength: 1, Base.BitsPerSample: 8, Base.Compression: 8,
        Base.PhotometricInterpretation: 1, Base.TileWidth: 60_000, Base.TileLength: 60_000,
        Base.TileOffsets: 8, Base.TileByteCounts: 1,
    }.items():  # fmt: skip
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)
    with pytest.raises(BadInput, match="found 60000 x 60000 pixels"):
        look(file.getvalue())


def test_a_second_header_of_another_size_is_refused() -> None:
    again = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    with pytest.raises(BadInput, match="60000 x 60000"):
        look(png(again, IDAT))


@pytest.mark.parametrize("kind", FILES)
def test_looking_decodes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    for opener in (ImageFile.ImageFile, *headers.OPENERS.values()):
        monkeypatch.setattr(opener, "load", refuse)
    assert look(FILES[kind]).format == kind.partition(",")[0]


def test_looking_at_twenty_megapixels_is_fast() -> None:
    data = images.encode_png(np.zeros((4000, 5000, 3), np.uint8), {})
    start = time.perf_counter()
    assert headers.look(data, len(data), 20_000_000).width == 5000
    assert time.perf_counter() - start < 0.5  # milliseconds; decoding takes far longer


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "webp, lossy", "tiff"])
@pytest.mark.filterwarnings("ignore")  # as outside of tests, where PIL's warnings stop nothing
@given(st.data())
def test_a_file_that_was_cut_off_is_refused(kind: str, data: st.DataObject) -> None:
    whole = FILES[kind]
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadInput):
        look(whole[:length])


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "webp, lossy", "tiff"])
def test_what_is_missing_is_said(kind: str) -> None:
    with pytest.raises(BadInput, match=r"ends too early; expected .*: send or save it again"):
        look(FILES[kind][:-1])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
@pytest.mark.filterwarnings("ignore")
def test_a_packed_tiff_that_was_cut_off_is_refused(compression: str) -> None:
    whole = saved("RGB", "TIFF", compression=compression)
    for length in (8, len(whole) // 4, len(whole) // 2):
        with pytest.raises(BadInput):
            look(whole[:length])


def test_a_tiff_with_too_few_pixels_is_refused() -> None:
    with pytest.raises(BadInput, match="ends too early"):
        look(changed_tiff(Base.StripByteCounts, 31 * 19 * 3 - 1))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    exif = Image.Exif()
    exif[Base.ImageDescription] = "x"
    thumbnail = b"Exif\0\0" + exif.tobytes()[6:] + FILES["jpeg"]
    whole = saved("RGB", "JPEG", exif=thumbnail)
    assert look(whole).format == "jpeg"
    with pytest.raises(BadInput, match="a JPEG that ends too early"):
        look(whole[:-2])


@given(st.integers(0, 8 * len(FILES["png"]) - 1))
def test_one_flipped_bit_in_a_png_is_noticed(bit: int) -> None:
    data = bytearray(FILES["png"])
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadInput):
        look(bytes(data))


ZEROS = zlib.compress(bytes(64 << 20))
BOMBS = {
    "iTXt": chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS),
    "zTXt": chunk(b"zTXt", b"a\0\0" + ZEROS),
    "iCCP": chunk(b"iCCP", b"a\0\0" + ZEROS),
}
MANY = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 17


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("before", [True, False])
def test_a_bomb_of_metadata_is_not_unpacked(kind: str, before: bool) -> None:
    assert len(BOMBS[kind]) < 100_000
    with pytest.raises(BadInput, match=f"unpacks to a {kind} of more than 1,048,576 bytes; expected less"):
        look(png(BOMBS[kind], IDAT) if before else png(IDAT, BOMBS[kind]))


def test_many_small_bombs_of_metadata_count_together() -> None:
    with pytest.raises(BadInput, match="unpacks to more than 16,777,216 bytes"):
        look(png(IDAT, MANY))


def test_honest_compressed_metadata_is_taken() -> None:
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(500_000)))
    text = chunk(b"iTXt", b"a\0\1\0de\0b\0" + zlib.compress(b"words" * 1000))
    damaged = chunk(b"zTXt", b"a\0\0no zlib")  # which PIL skips
    assert look(png(profile, text, damaged, IDAT)).mode == "RGB"


def takes_or_refuses(data: bytes) -> None:
    for mask in (False, True):
        with contextlib.suppress(BadInput):
            look(data, mask=mask)


beginnings = st.sampled_from([signature for signature, _ in signatures.SIGNATURES] + [b"RIFF\xff\0\0\0WEBPVP8X", b""])


@pytest.mark.filterwarnings("ignore")
@given(beginnings, st.binary(max_size=200))
def test_nothing_but_bad_input_is_raised_for_noise_behind_a_signature(signature: bytes, noise: bytes) -> None:
    takes_or_refuses(signature + noise)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=8))
def test_nothing_but_bad_input_is_raised_for_changed_bytes(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(FILES[kind])
    for at, value in changes:
        data[at % min(len(data), 400)] = value  # among the headers, where they matter
    takes_or_refuses(bytes(data))


kinds = st.sampled_from([b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"tRNS", b"PLTE", b"pHYs", b"gAMA", b"IHDR"])
chunks = st.lists(st.builds(chunk, kinds, st.binary(max_size=40)), max_size=5).map(b"".join)


@pytest.mark.filterwarnings("ignore")
@given(chunks, chunks, st.sampled_from([1, 2, 3, 8, 16]), st.integers(0, 7))
def test_nothing_but_bad_input_is_raised_for_strange_chunks(before: bytes, after: bytes, bits: int, color: int) -> None:
    takes_or_refuses(png(before, IDAT, after, bits=bits, color=color))


def test_every_reader_turns_what_pil_raises_into_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Callable[[], Exception]] = [
        OSError, SyntaxError, ValueError, OverflowError, struct.error, Image.DecompressionBombError, RecursionError,
    ]  # fmt: skip
    for kind in ("png", "jpeg", "webp", "tiff"):
        for error in raised:

            def fail(*_: object, error: Callable[[], Exception] = error) -> None:
                raise error()

            monkeypatch.setattr(headers, "opened", fail)
            with pytest.raises(BadInput, match=r"^photo: found a damaged header .*; expected a whole"):
                look(FILES[kind])
