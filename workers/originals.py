"""Input pictures and masks, decoded: upright pixels, and beside them what an edit gives back unchanged."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

from shared import headers
from shared.errors import BadInput
from shared.images import Kept, Pixels

T = TypeVar("T")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EXIF tags of the first directory that say how pixels lie in the file, not what they show: 254..347 but for the named.
ABOUT_THE_PICTURE = {
    Base.DocumentName, Base.ImageDescription, Base.Make, Base.Model, Base.XResolution, Base.YResolution, Base.PageName,
    Base.ResolutionUnit, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer, Base.WhitePoint,
    Base.PrimaryChromaticities,
}  # fmt: skip
ABOUT_THE_FILE = {
    *(set(range(Base.NewSubfileType, Base.JPEGTables + 1)) - ABOUT_THE_PICTURE),
    *range(Base.JPEGProc, Base.JpegACTables + 1),
    *range(Base.YCbCrCoefficients, Base.ReferenceBlackWhite + 1),
    Base.XMLPacket, Base.IPTCNAA, Base.ImageResources, Base.InterColorProfile, Base.ExifOffset, Base.GPSInfo,
    37724,  # Photoshop's layers
}  # fmt: skip
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by a PNG's color type
# Of an interlaced PNG's seven passes: the first column and row, and how far apart they are.
ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
PIECE = 1 << 20  # bytes unpacked at once
SIZES = (Base.ExifImageWidth, Base.ExifImageHeight)  # of the file as it was; wrong once it is turned or outpainted


@dataclass(frozen=True)
class Original:
    """An input picture. Arrays are upright, uint8 in [0, 255], and not to be written into."""

    pixels: Pixels  # HWC, RGB; three equal channels where `gray`
    alpha: Pixels | None  # HW, 255 is opaque
    gray: bool
    icc: bytes | None
    exif: bytes  # with the prefix `Exif`; without orientation, sizes and thumbnail; empty if there is none
    facts: headers.Facts

    @property
    def kept(self) -> Kept:
        """What an edit of the input's size gives back beside the pixels."""
        return Kept(self.alpha, self.gray, self.icc, self.exif)


def decode(data: bytes, most_bytes: int, most_pixels: int, name: str) -> Original:
    """The picture of a PNG, JPEG, WebP or TIFF; a palette becomes RGB. RGB under alpha 0 is as the file says.

    Raises BadInput for what `headers.look` refuses and for files that do not decode.
    """
    facts = headers.look(data, most_bytes, most_pixels, name)
    return _decoded(data, facts, name, _original)


def gray_mask(data: bytes, most_bytes: int, most_pixels: int, name: str) -> Pixels:
    """A mask file as HW uint8 in [0, 255]: luminance times alpha, so that only what is white and opaque is 255.

    Of 16 bits the upper 8. Raises BadInput as `decode` does; bilevel and 16-bit files are taken.
    """
    facts = headers.look(data, most_bytes, most_pixels, name, mask=True)
    return _decoded(data, facts, name, _mask)


def _decoded(data: bytes, facts: headers.Facts, name: str, convert: Callable[[bytes, headers.Facts], T]) -> T:
    try:
        return convert(data, facts)
    except MemoryError:
        raise  # this machine's fault, not the picture's
    except Exception as error:  # whatever PIL raises about damaged pixels
        found = f"{name}: found a {facts.format} file that cannot be decoded ({type(error).__name__}: {error})"
        raise BadInput(f"{found}; expected a whole one: send or save it again") from error


def _original(data: bytes, facts: headers.Facts) -> Original:
    image = _upright(data, facts)
    colors, alpha = _layers(data, facts, image)
    gray = colors.ndim == 2
    pixels = np.repeat(colors[..., None], 3, axis=2) if gray else colors
    icc = image.info.get("icc_profile")
    icc = icc if isinstance(icc, bytes) and icc else None  # a PNG's text of that name gets there as well
    return Original(pixels, alpha, gray, icc, _own_exif(data, facts, image), facts)


def _mask(data: bytes, facts: headers.Facts) -> Pixels:
    image = _upright(data, facts)
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    colors, alpha = _layers(data, facts, image.convert("L") if image.mode == "1" else image)
    luminance = colors if colors.ndim == 2 else np.asarray(Image.fromarray(colors).convert("L"))
    if alpha is None:
        return luminance
    product = luminance.astype(np.uint16) * alpha
    return ((product + 127) // 255).astype(np.uint8)


def _upright(data: bytes, facts: headers.Facts) -> Image.Image:
    image: Image.Image = headers.opened(data, facts.format)
    image.info.pop("xmp", None)  # else PIL turns a TIFF by it, which the header's look did not count on
    image.load()
    if facts.format != "tiff":  # PIL has turned that already
        turn = TURNS.get(headers.orientation(headers.exif(data, image, facts.format)))
        image = image if turn is None else image.transpose(turn)
    if facts.format == "png":
        _check_rows(data)
    if image.size != (facts.width, facts.height):
        raise ValueError(f"{image.width} x {image.height} pixels, not {facts.width} x {facts.height}")
    return image


def _check_rows(data: bytes) -> None:
    """Raises ValueError if a PNG's pixels end early: PIL leaves the rest black where the stream ends cleanly."""
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    wanted = 0
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            wanted += rows * (1 + -(-columns * bits * CHANNELS[color] // 8))  # a filter byte before each row
    unpacker, found = zlib.decompressobj(), 0
    for kind, at, length in headers.png_chunks(data):
        packed = data[at : at + length] if kind == b"IDAT" else b""
        while packed and found < wanted:
            found += len(unpacker.decompress(packed, PIECE))
            packed = unpacker.unconsumed_tail
    if found < wanted:
        raise ValueError(f"{found:,} bytes of pixels, not {wanted:,}: it ends early")


def _layers(data: bytes, facts: headers.Facts, image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Gray (HW) or RGB (HWC), and alpha (HW) if there is one; all uint8."""
    if image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        array = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(array[..., :3]), array[..., 3].copy() if transparent else None
    array = np.asarray(image)
    if image.mode in ("L", "RGB"):
        return array, _color_key(data, array) if facts.format == "png" else None
    colors = array[..., 0] if image.mode == "LA" else array[..., :3]
    return np.ascontiguousarray(colors), array[..., -1].copy()


def _color_key(data: bytes, array: Pixels) -> Pixels | None:
    """Alpha (HW, uint8) of a PNG that declares one gray (array: HW) or color (HWC) transparent; None if it does not."""
    keys = [data[start : start + length] for kind, start, length in headers.png_chunks(data) if kind == b"tRNS"]
    bits = data[24]
    if not keys or bits > 8:
        return None
    most = 2**bits - 1
    # In the file's own depth, where PIL's grays are spread over 0..255.
    key = (np.frombuffer(keys[0], ">u2", 1 if array.ndim == 2 else 3) & most) * (255 // most)
    equal = array == key if array.ndim == 2 else (array == key).all(axis=2)
    return np.where(equal, np.uint8(0), np.uint8(255))


def _own_exif(data: bytes, facts: headers.Facts, image: Image.Image) -> bytes:
    """The EXIF that still holds for other pixels, with the prefix `Exif`; what PIL cannot read or write is left out."""
    try:
        read = image.getexif() if facts.format == "tiff" else Image.Exif()
        if facts.format != "tiff":
            read.load(headers.exif(data, image, facts.format))
        own = Image.Exif()  # a new one: PIL writes no thumbnail, and a TIFF's is full of offsets
        for tag in set(read) - ABOUT_THE_FILE:
            own[tag] = read[tag]
        for group in (IFD.Exif, IFD.GPSInfo):
            tags = {tag: value for tag, value in read.get_ifd(group).items() if tag not in (*SIZES, IFD.Interop)}
            if tags:
                own.get_ifd(group).update(tags)
        return own.tobytes() if own or own.get_ifd(IFD.Exif) or own.get_ifd(IFD.GPSInfo) else b""
    except Exception:  # damaged EXIF is common, and no reason to refuse the picture
        return b""
