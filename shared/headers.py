"""What a picture's header says, looked at before anything is decoded. No numpy, no torch: the producer asks too."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageFile
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngImageFile
from PIL.TiffImagePlugin import EXTRASAMPLES, SAMPLEFORMAT, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from shared.errors import BadInput
from shared.signatures import Format, format_of, seems

MODES = frozenset({"L", "LA", "RGB", "RGBA", "P", "PA"})  # PIL's; what comes back as it was, 8 bits a channel
MASK_MODES = MODES | {"1", "I;16", "I;16B"}
MOST_UNPACKED = 16 << 20  # bytes that all compressed profiles and texts of one PNG may unpack to
LOSSY_TIFF = frozenset({"tiff_jpeg", "jpeg", "webp", "tiff_sgilog", "tiff_sgilog24"})
# Of these classes, not of Image.open: a phone's JPEG with a second picture behind it (MPO) is its first picture.
OPENERS: dict[Format, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
    "tiff": TiffImageFile,
}
# Pixels are counted here before PIL allocates any. Its own limit would warn of pictures that the settings allow.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Facts:
    """A picture's header; its size in pixels is the upright one, after EXIF orientation."""

    format: Format
    width: int
    height: int
    lossless: bool
    mode: str  # PIL's, as stored


@dataclass(frozen=True)
class _Seen:
    """What one format's reader found; width and height in pixels, as stored unless `orientation` is 1."""

    image: ImageFile.ImageFile  # opened, not decoded
    width: int
    height: int
    lossless: bool
    bits: int = 8  # per channel, as stored
    orientation: int = 1  # EXIF's, 1..8


def look(data: bytes, most_bytes: int, most_pixels: int, name: str = "the picture", *, mask: bool = False) -> Facts:
    """What `data` holds, if it can be edited and given back in its own mode; a `mask` may also be bilevel or 16 bits.

    Checked without decoding: bytes, format, pixels, one picture only, its mode, and that the file is whole.
    Raises BadInput, and nothing else, whatever `data` is.
    """
    try:
        if len(data) > most_bytes:
            raise _unfit(f"{len(data):,} bytes", f"at most {most_bytes:,}", "make it smaller, or raise the limit")
        kind = format_of(data)
        if kind is None:
            raise _unfit(seems(data), "PNG, JPEG, WebP or TIFF", "save it as one of these")
        seen = READERS[kind](data, most_pixels)
        _check_mode(seen, mask)
        if len(seen.image.info.get("icc_profile") or b"") > MAX_TEXT_CHUNK:  # PIL reads no larger one from a PNG
            raise _bomb(f"a color profile of more than {MAX_TEXT_CHUNK:,} bytes")
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    except Exception as error:  # whatever PIL raises about bytes that are not what they seem
        found = f"{name}: found a damaged header ({type(error).__name__}: {error})"
        raise BadInput(f"{found}; expected a whole PNG, JPEG, WebP or TIFF: save it again") from error
    turned = seen.orientation >= 5
    width, height = (seen.height, seen.width) if turned else (seen.width, seen.height)
    return Facts(kind, width, height, seen.lossless, seen.image.mode)


def opened(data: bytes, kind: Format) -> ImageFile.ImageFile:
    """PIL's picture of `data`, not decoded yet. Raises what PIL raises."""
    return OPENERS[kind](io.BytesIO(data))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, offset and length in bytes of each chunk's content in a PNG; raises BadInput if it ends before IEND."""
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at = end + 4
    raise _cut_off("PNG", "its chunks up to IEND")


def exif(data: bytes, image: Image.Image, kind: Format) -> bytes:
    """The EXIF bytes of a PNG, JPEG or WebP, without the prefix `Exif`; empty if it has none."""
    if kind == "png":
        # Not from PIL, which finds an eXIf after the pixels only by decoding, and takes a text named exif for one.
        found = [data[start : start + length] for chunk, start, length in png_chunks(data) if chunk == b"eXIf"]
        raw = found[-1] if found else b""
    else:
        raw = image.info.get("exif", b"")
    return raw.removeprefix(b"Exif\0\0")


def orientation(exif_data: bytes) -> int:
    """EXIF orientation, 1..8; 1 (upright) where there is none or it is absurd. XMP's is ignored, as in browsers."""
    order = {b"II": "<", b"MM": ">"}.get(exif_data[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}4xL", exif_data)
        (entries,) = struct.unpack_from(f"{order}H", exif_data, start)
        for index in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", exif_data, start + 2 + 12 * index)
            if tag == Base.Orientation:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # cut off: cameras and editors leave such, and viewers show the picture as stored
    return 1


def _read_png(data: bytes, most_pixels: int) -> _Seen:
    chunks = list(png_chunks(data))
    if chunks[0][0] != b"IHDR":
        raise _unfit(f"a PNG that begins with {chunks[0][0]!r}", "IHDR first", "save it again")
    width, height, bits = struct.unpack_from(">IIB", data, chunks[0][1])
    _check_size(width, height, most_pixels)
    unpacked = 0
    for kind, start, length in chunks:
        _check_sum(data, kind, start, length)
        if kind == b"acTL":
            raise _unfit("an animated PNG (APNG)", "one picture only", "save one frame of it")
        unpacked += _unpacked(kind, data[start : start + length]) if kind in (b"iCCP", b"zTXt", b"iTXt") else 0
        if unpacked > MOST_UNPACKED:
            raise _bomb(f"more than {MOST_UNPACKED:,} bytes")
    image = opened(data, "png")
    return _Seen(image, *_same(image, width, height), True, bits, orientation(exif(data, image, "png")))


def _check_sum(data: bytes, kind: bytes, start: int, length: int) -> None:
    # PIL skips those of pixels, and pixels with flipped bits often unpack without complaint.
    end = start + length
    if zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
        raise _unfit(f"a wrong checksum in PNG chunk {kind!r}", "an undamaged file", "send or save it again")


def _unpacked(kind: bytes, chunk: bytes) -> int:
    """Bytes that a compressed PNG chunk unpacks to; raises BadInput beyond what PIL takes. Damaged ones PIL skips."""
    named = chunk.partition(b"\0")[2]
    packed = named[1:]  # behind the method
    if kind == b"iTXt":
        if named[:1] == b"\0":
            return 0  # its flag: not compressed
        packed = named[2:].split(b"\0", 2)[-1]  # behind method, language and translated name
    unpacker = zlib.decompressobj()
    try:
        size = len(unpacker.decompress(packed, MAX_TEXT_CHUNK))
    except zlib.error:
        return 0
    if unpacker.unconsumed_tail:
        raise _bomb(f"a {kind.decode()} of more than {MAX_TEXT_CHUNK:,} bytes")
    return size


def _read_jpeg(data: bytes, most_pixels: int) -> _Seen:
    image = opened(data, "jpeg")
    _check_size(*image.size, most_pixels)
    assert image.fp is not None
    # From the first scan on: a thumbnail before it has its own end, and phones append films and depth maps after it.
    if not image.tile or data.find(b"\xff\xd9", image.fp.tell()) < 0:
        raise _cut_off("JPEG", "its end marker")
    return _Seen(image, *image.size, False, orientation=orientation(exif(data, image, "jpeg")))


def _read_webp(data: bytes, most_pixels: int) -> _Seen:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    kinds: dict[bytes, int] = {}  # kind -> offset of the first such chunk's content
    at = 12
    while at + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, at)
        kinds.setdefault(kind, at + 8)
        at += 8 + length
        end = max(end, at)
        at += length & 1
    if end > len(data):
        raise _cut_off("WebP", f"{end:,} bytes, as its header says")
    if b"ANMF" in kinds or b"ANIM" in kinds:
        raise _unfit("an animated WebP", "one picture only", "save one frame of it")
    width, height = _webp_size(data, kinds)
    _check_size(width, height, most_pixels)  # before PIL: its decoder allocates when it is made
    image = opened(data, "webp")
    turn = orientation(exif(data, image, "webp"))
    return _Seen(image, *_same(image, width, height), b"VP8L" in kinds, orientation=turn)


def _webp_size(data: bytes, kinds: dict[bytes, int]) -> tuple[int, int]:
    """Width and height in pixels, from the first header that says them."""
    if (at := kinds.get(b"VP8X")) is not None:
        width, height = (int.from_bytes(data[at + skip : at + skip + 3], "little") for skip in (4, 7))
        return width + 1, height + 1
    if (at := kinds.get(b"VP8L")) is not None:
        (packed,) = struct.unpack_from("<I", data, at + 1)
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    if (at := kinds.get(b"VP8 ")) is not None:
        width, height = struct.unpack_from("<HH", data, at + 6)
        return width & 0x3FFF, height & 0x3FFF
    raise _unfit("a WebP without a picture", "a chunk VP8, VP8L or VP8X", "save it again")


def _read_tiff(data: bytes, most_pixels: int) -> _Seen:
    image = opened(data, "tiff")
    assert isinstance(image, TiffImageFile)
    _check_size(*image.size, most_pixels)
    if image.is_animated:
        raise _unfit("a TIFF of several pages", "one picture only", "save one page of it")
    tags = image.tag_v2
    _check_size(tags.get(Base.TileWidth, 1), tags.get(Base.TileLength, 1), most_pixels)  # libtiff allocates whole tiles
    extra = tags.get(EXTRASAMPLES, ())
    if len(extra) > 1 or 0 in extra:
        raise _unfit(f"a TIFF with {len(extra)} extra channel(s)", "at most an alpha channel", "save it without them")
    if set(tags.get(SAMPLEFORMAT, (1,))) != {1}:
        raise _unfit("a TIFF of signed or floating-point numbers", "8 bits a channel, unsigned", "convert it")
    _check_strips(image, len(data))
    lossless = image.info["compression"] not in LOSSY_TIFF
    # PIL's size of a TIFF is the upright one already.
    return _Seen(image, *image.size, lossless, max(tags.get(Base.BitsPerSample, (1,))))


def _check_strips(image: TiffImageFile, size_bytes: int) -> None:
    """All pixels of the TIFF lie inside its `size_bytes`; raw ones are as many as its width and height say."""
    tags = image.tag_v2
    offsets = tags.get(Base.StripOffsets) or tags.get(Base.TileOffsets) or ()
    counts = tags.get(Base.StripByteCounts) or tags.get(Base.TileByteCounts) or (1,) * len(offsets)
    if not offsets or any(at + count > size_bytes for at, count in zip(offsets, counts, strict=True)):
        raise _cut_off("TIFF", "all its strips inside the file")
    if image.info["compression"] == "raw" and Base.StripByteCounts in tags:
        bits = tags.get(Base.BitsPerSample, (1,))
        pixel_bits = sum(bits) if len(bits) > 1 else bits[0] * tags.get(Base.SamplesPerPixel, 1)
        expected = tags[Base.ImageLength] * (tags[Base.ImageWidth] * pixel_bits // 8)
        if sum(counts) < expected:
            raise _cut_off("TIFF", f"{expected:,} bytes of pixels")


def _check_size(width: int, height: int, most_pixels: int) -> None:
    found = f"{width} x {height} pixels"
    if width < 1 or height < 1:
        raise _unfit(found, "at least one", "save it again")
    if width * height > most_pixels:
        raise _unfit(f"{found} ({width * height:,})", f"at most {most_pixels:,}", "make it smaller, or raise the limit")


def _same(image: ImageFile.ImageFile, width: int, height: int) -> tuple[int, int]:
    """The size that was checked; raises BadInput if PIL, which will allocate it, reads another."""
    if image.size != (width, height):
        found = f"headers of two sizes, {width} x {height} and {image.width} x {image.height}"
        raise _unfit(found, "one", "save it again")
    return width, height


def _check_mode(seen: _Seen, mask: bool) -> None:
    mode = seen.image.mode
    if mode not in (MASK_MODES if mask else MODES):
        known = {"1": "bilevel (1 bit)", "CMYK": "CMYK", "I;16": "16 bits a channel", "I;16B": "16 bits a channel"}
        found = known.get(mode, f"the mode {mode!r}")
    elif seen.bits > 8 and not (mask and seen.bits == 16):
        found = f"{seen.bits} bits a channel"
    else:
        return
    raise _unfit(found, "gray or RGB of 8 bits a channel, with or without alpha, or a palette", "convert it")


def _unfit(found: str, expected: str, advice: str) -> BadInput:
    return BadInput(f"found {found}; expected {expected}: {advice}")


def _cut_off(kind: str, expected: str) -> BadInput:
    return _unfit(f"a {kind} that ends too early", expected, "send or save it again")


def _bomb(found: str) -> BadInput:
    return _unfit(f"compressed metadata that unpacks to {found}", "less", "save it without that text or profile")


READERS: dict[Format, Callable[[bytes, int], _Seen]] = {
    "png": _read_png,
    "jpeg": _read_jpeg,
    "webp": _read_webp,
    "tiff": _read_tiff,
}
