"""The first bytes of a file, which tell its format whatever its name says."""

from typing import Literal

Format = Literal["png", "jpeg", "webp", "tiff"]
SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
)
STRANGERS = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"BM", "a BMP"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"PK\3\4", "a ZIP archive"),
    (b"<!doctype html", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
)
BRANDS = {b"avif": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC"}


def format_of(data: bytes) -> Format | None:
    """The format by its signature; None if it is none of ours."""
    for signature, kind in SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def seems(data: bytes) -> str:
    """What a file that is none of ours looks like, for an error."""
    head = data[:512]
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp":
        return BRANDS.get(data[8:12], "a film or picture of the MP4 family")
    written = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, what in STRANGERS:
        if head.startswith(signature) or written.startswith(signature):
            return what
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "an SVG" if b"<svg" in written else "text"
    return f"an unknown kind of file (it begins with {head[:8].hex(' ')})"
