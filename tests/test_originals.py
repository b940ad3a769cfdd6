"""Input pictures: what an edit does not touch comes back bit for bit, at the input's size and in its mode."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.ExifTags import GPS, IFD, Base

from shared import images
from shared.errors import BadInput
from shared.images import Pixels
from shared.jobs import Inpaint
from workers import originals
from workers.originals import Original

MOST_BYTES, MOST_PIXELS = 64 << 20, 1_000_000
WIDTH, HEIGHT = 301, 199  # odd, so that nothing fits by chance
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Every value in every channel; whole noise would take WebP seconds.
Y, X = np.indices((HEIGHT, WIDTH))
WAVES = np.dstack((X + Y, X * 2 - Y, Y * 3, X // 2 + 100)).astype(np.uint8)
WAVES[:50, :, 3] = 0  # transparent, with colors beneath
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
JOB = {
    "model": "demo", "width": 304, "height": 200, "num_inference_steps": 5, "guidance_scale": 5.0, "seed": 1,
    "scheduler": "dpmpp_2m_karras", "image": "a", "mask_image": "b", "quality": 100,
}  # fmt: skip


def decode(data: bytes) -> Original:
    return originals.decode(data, MOST_BYTES, MOST_PIXELS, "photo")


def gray_mask(data: bytes) -> Pixels:
    return originals.gray_mask(data, MOST_BYTES, MOST_PIXELS, "mask")


def picture(mode: str) -> Image.Image:
    if mode == "P":
        image = Image.frombytes("P", (WIDTH, HEIGHT), WAVES[..., 0].tobytes())
        image.putpalette(PALETTE.tobytes())
        return image
    channels = ["LA", "RGBA"][mode.startswith("RGB")]
    array = WAVES[..., ["RGBA".index("R" if channel == "L" else channel) for channel in channels if channel in mode]]
    return Image.fromarray(array[..., 0] if mode == "L" else np.ascontiguousarray(array))


def saved(image: Image.Image, file_format: str, **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **more)
    return file.getvalue()


def returned(original: Original, output_format: str, **more: object) -> bytes:
    """The file of an edit that touched nothing."""
    job = Inpaint.model_validate(JOB | {"output_format": output_format} | more)
    texts = images.texts(job, 0, "demo", "ab" * 32)
    return images.encode(original.pixels, job, texts, kept=original.kept)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, width: int, height: int, bits: int, color: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return images.PNG_SIGNATURE + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def camera_exif(orientation: int = 1) -> bytes:
    """As a camera writes it: with sizes, a place, and a thumbnail."""
    exif = Image.Exif()
    exif[Base.Make] = "Camera"
    exif[Base.Orientation] = orientation
    exif.get_ifd(IFD.Exif).update({Base.ISOSpeedRatings: 200, Base.ExifImageWidth: WIDTH, Base.UserComment: b"old"})
    exif.get_ifd(IFD.GPSInfo).update({GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (52.0, 30.0, 0.0)})
    raw = exif.tobytes()
    (entries,) = struct.unpack_from(">H", raw, 14)
    end, thumbnail = 16 + 12 * entries, saved(Image.new("RGB", (8, 8)), "JPEG")
    second = struct.pack(">HHHLLHHLLL", 2, 513, 4, 1, len(raw) - 6 + 30, 514, 4, 1, len(thumbnail), 0)
    return raw[:end] + struct.pack(">L", len(raw) - 6) + raw[end + 4 :] + second + thumbnail


INPUTS = {
    **{f"{mode} in PNG": saved(picture(mode), "PNG", icc_profile=ICC) for mode in ("L", "LA", "RGB", "RGBA", "P")},
    **{f"{mode} in TIFF": saved(picture(mode), "TIFF", icc_profile=ICC) for mode in ("L", "LA", "RGB", "RGBA", "P")},
    "P with alphas in PNG": saved(picture("P"), "PNG", transparency=bytes(range(256)), icc_profile=ICC),
    "P with a hole in PNG": saved(picture("P"), "PNG", transparency=7, icc_profile=ICC),
    "RGB in WebP": saved(picture("RGB"), "WEBP", lossless=True, icc_profile=ICC),
    "RGBA in WebP": saved(picture("RGBA"), "WEBP", lossless=True, exact=True, icc_profile=ICC),
    "RGB in packed TIFF": saved(picture("RGB"), "TIFF", compression="tiff_lzw", icc_profile=ICC),
    "L in JPEG": saved(picture("L"), "JPEG", icc_profile=ICC),
    "RGB in JPEG": saved(picture("RGB"), "JPEG", icc_profile=ICC),
}


@pytest.mark.parametrize("name", [name for name in INPUTS if "JPEG" not in name])
def test_pixels_are_those_of_the_file(name: str) -> None:
    mode, found = name.partition(" ")[0], decode(INPUTS[name])
    colors = PALETTE[WAVES[..., 0]] if mode == "P" else WAVES[..., [0, 0, 0] if mode in ("L", "LA") else [0, 1, 2]]
    assert np.array_equal(found.pixels, colors)  # those under alpha 0 as well
    assert found.gray == (mode in ("L", "LA"))
    assert (found.facts.width, found.facts.height, found.facts.mode) == (WIDTH, HEIGHT, mode)
    alphas = {"P with alphas": WAVES[..., 0], "P with a hole": np.where(WAVES[..., 0] == 7, 0, 255)}
    alpha = alphas.get(name.partition(" in ")[0], WAVES[..., 3] if mode.endswith("A") else None)
    assert (found.alpha is None) if alpha is None else np.array_equal(found.alpha, alpha)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.c_contiguous


@pytest.mark.parametrize("output_format", ["png", "webp", "tiff"])
@pytest.mark.parametrize("name", INPUTS)
def test_an_untouched_picture_comes_back_bit_for_bit(name: str, output_format: str) -> None:
    before = decode(INPUTS[name])
    data = returned(before, output_format)
    after = decode(data)
    assert np.array_equal(after.pixels, before.pixels)
    assert np.array_equal(after.alpha, before.alpha) if before.alpha is not None else after.alpha is None
    assert after.icc == before.icc == ICC
    if output_format != "webp":  # which has no gray
        assert after.gray == before.gray
        assert Image.open(io.BytesIO(data)).mode == ("L" if before.gray else "RGB") + "A" * (before.alpha is not None)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_jpeg_keeps_gray_and_profile_and_drops_alpha(mode: str) -> None:
    before = decode(INPUTS[f"{mode} in PNG"])
    after = decode(returned(before, "jpeg", quality=95))
    assert after.gray == before.gray
    assert after.alpha is None
    assert after.icc == ICC
    assert np.abs(after.pixels.astype(int) - before.pixels).mean() < 4


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "tiff"])
def test_a_profile_larger_than_a_jpeg_segment_comes_back(output_format: str) -> None:
    profile = ICC + np.random.default_rng(2).bytes(200_000)
    before = decode(saved(picture("RGB"), "PNG", icc_profile=profile))
    assert decode(returned(before, output_format)).icc == profile


def test_a_text_that_is_named_as_a_profile_is_none() -> None:
    text = chunk(b"tEXt", b"icc_profile\0fake")
    data = png(text, chunk(b"IDAT", zlib.compress(bytes(4))), width=1, height=1, bits=8, color=2)
    assert decode(data).icc is None


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_upright_and_say_so(file_format: str, orientation: int) -> None:
    more = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    image = picture("RGB" if file_format == "JPEG" else "RGBA")
    stored = decode(saved(image, file_format, **more))
    found = decode(saved(image, file_format, exif=camera_exif(orientation), **more))
    turn = TURNED[orientation]
    assert np.array_equal(found.pixels, turn(stored.pixels))
    assert found.alpha is None if stored.alpha is None else np.array_equal(found.alpha, turn(stored.alpha))
    assert found.pixels.shape == (found.facts.height, found.facts.width, 3)
    for output_format in ("png", "jpeg", "webp", "tiff"):
        again = decode(returned(found, output_format, quality=95))
        assert again.pixels.shape == found.pixels.shape, output_format  # not turned a second time


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_the_orientation_in_xmp_turns_no_tiff(compression: str) -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    found = decode(saved(picture("RGB"), "TIFF", compression=compression, tiffinfo={Base.XMLPacket: xmp}))
    assert np.array_equal(found.pixels, WAVES[..., :3])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "tiff"])
def test_exif_is_kept_but_for_what_speaks_of_the_old_file(file_format: str, output_format: str) -> None:
    before = decode(saved(picture("RGB"), file_format, exif=camera_exif(6)))
    assert b"\xff\xd8" not in before.exif  # the thumbnail
    data = returned(before, output_format)
    exif = Image.open(io.BytesIO(data)).getexif()
    assert exif[Base.Make] == "Camera"
    assert exif.get_ifd(IFD.Exif)[Base.ISOSpeedRatings] == 200
    assert exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] == (52.0, 30.0, 0.0)
    assert Base.Orientation not in exif
    assert Base.ExifImageWidth not in exif.get_ifd(IFD.Exif)
    assert exif.get_ifd(IFD.Exif).get(Base.UserComment) != b"old"
    assert set(images.read_texts(data)) == {"parameters", "pixelmill"}


def test_exif_of_a_tiff_says_nothing_of_its_strips() -> None:
    found = decode(saved(picture("RGB"), "TIFF", icc_profile=ICC, exif=camera_exif()))
    exif = Image.Exif()
    exif.load(found.exif)
    assert set(exif) == {Base.Make, IFD.Exif, IFD.GPSInfo}


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish", camera_exif()[:40]]
)
@pytest.mark.filterwarnings("ignore")  # PIL's, about just that
def test_damaged_exif_is_no_reason_to_refuse_a_picture(exif: bytes) -> None:
    found = decode(saved(picture("RGB"), "JPEG", exif=exif))
    assert found.pixels.shape == (HEIGHT, WIDTH, 3)
    assert returned(found, "jpeg")


def test_a_picture_without_exif_has_none() -> None:
    assert decode(INPUTS["RGB in PNG"]).exif == decode(INPUTS["RGB in TIFF"]).exif == b""


@pytest.mark.parametrize(
    ("bits", "color", "line", "key", "pixels", "alpha"),
    [
        (8, 0, bytes([7, 8, 9]), struct.pack(">H", 8), [7, 8, 9], [255, 0, 255]),
        (4, 0, bytes([0x0F, 0xA0]), struct.pack(">H", 15), [0, 255, 170], [255, 0, 255]),
        (2, 0, bytes([0b00_10_11_00]), struct.pack(">H", 2), [0, 170, 255], [255, 0, 255]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6, 1, 2, 4]), struct.pack(">3H", 1, 2, 3), [[1, 2, 3], [4, 5, 6], [1, 2, 4]],
         [0, 255, 255]),
    ],
)  # fmt: skip
def test_the_one_transparent_color_of_a_png_becomes_alpha(
    bits: int, color: int, line: bytes, key: bytes, pixels: list[int], alpha: list[int]
) -> None:
    data = png(
        chunk(b"tRNS", key), chunk(b"IDAT", zlib.compress(b"\0" + line)), width=3, height=1, bits=bits, color=color
    )
    found = decode(data)
    assert (found.pixels[0, :, 0] if color == 0 else found.pixels[0]).tolist() == pixels
    assert found.alpha is not None
    assert found.alpha.tolist() == [alpha]


def test_a_png_whose_pixels_end_too_early_is_refused() -> None:
    packed = zlib.compress(WAVES[:20, :10, :].tobytes())
    data = png(chunk(b"IDAT", packed[: len(packed) // 2]), width=10, height=20, bits=8, color=2)
    with pytest.raises(BadInput, match=r"^photo: found a png file that cannot be decoded .*; expected a whole one: "):
        decode(data)


@pytest.mark.parametrize("name", ["RGB in PNG", "RGB in JPEG", "RGB in WebP", "RGB in TIFF", "RGB in packed TIFF"])
@pytest.mark.filterwarnings("ignore")
def test_a_cut_off_file_is_refused(name: str) -> None:
    data = INPUTS[name]
    for length in (len(data) // 10, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(BadInput, match=r"^photo: found "):
            decode(data[:length])


@pytest.mark.parametrize("name", ["P with alphas in PNG", "RGB in JPEG", "RGBA in WebP", "LA in TIFF", "P in TIFF"])
@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_decoded_or_refused(name: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(INPUTS[name])
    for at, value in changes:
        data[at % min(len(data), 4000)] = value
    with contextlib.suppress(BadInput):
        decode(bytes(data))
    with contextlib.suppress(BadInput):
        gray_mask(bytes(data))


def test_a_machine_without_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(originals, "_layers", fail)
    with pytest.raises(MemoryError):
        decode(INPUTS["RGB in PNG"])


RAMP = np.arange(256, dtype=np.uint8)[None]
HALF = np.full_like(RAMP, 128)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RAMP), RAMP),
        (Image.fromarray(np.dstack((RAMP, RAMP, RAMP))), RAMP),
        (Image.fromarray(np.dstack((RAMP, HALF))), np.rint(RAMP * (128 / 255))),
        (Image.fromarray(np.dstack((RAMP, RAMP, RAMP, HALF * 0))), RAMP * 0),
        (Image.fromarray(RAMP).convert("P"), RAMP),
        (Image.fromarray(RAMP >= 128), np.where(RAMP >= 128, 255, 0)),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), RAMP),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_mask_is_luminance_times_alpha(image: Image.Image, expected: Pixels, file_format: str) -> None:
    found = gray_mask(saved(image, file_format))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_a_mask_is_upright() -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    assert gray_mask(saved(Image.fromarray(RAMP), "PNG", exif=exif)).tolist() == RAMP.T.tolist()


def test_what_a_mask_may_be_a_picture_may_not() -> None:
    bilevel = saved(Image.fromarray(RAMP >= 128), "PNG")
    assert gray_mask(bilevel).shape == (1, 256)
    with pytest.raises(BadInput, match="bilevel"):
        decode(bilevel)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (301, 19)])
def test_a_png_whose_pixels_end_early_is_refused_and_a_whole_one_is_not(mode: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(file, "PNG")
    whole = file.getvalue()
    read = originals.gray_mask if mode == "1" else originals.decode
    read(whole, 1 << 20, 1 << 20, "it")
    with pytest.raises(BadInput, match="cannot be decoded"):
        read(_with_half_its_rows(whole), 1 << 20, 1 << 20, "it")


def _with_half_its_rows(png: bytes) -> bytes:
    """The same PNG with half of its pixels, in a stream that ends as it should."""
    at = png.index(b"IDAT") - 4
    length = int.from_bytes(png[at : at + 4], "big")
    rows = zlib.decompress(png[at + 8 : at + 8 + length])
    packed = zlib.compress(rows[: len(rows) // 2])
    chunk = b"IDAT" + packed
    tail = png[at + 12 + length :]
    return png[:at] + len(packed).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + tail


@given(st.integers(1, 20), st.integers(1, 20))
def test_interlaced_pngs_are_read_whole_whatever_their_size(width: int, height: int) -> None:
    pixels = np.random.default_rng(width * 99 + height).integers(0, 256, (height, width, 3), np.uint8)
    parts = [pixels[top::down, left::across] for left, top, across, down in originals.ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    read = originals.decode(b"\x89PNG\r\n\x1a\n" + body, 1 << 20, 1 << 20, "it")
    assert np.array_equal(read.pixels, pixels)
