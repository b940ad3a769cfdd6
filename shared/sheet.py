"""The contact sheet: one HTML page that needs no server, thumbnails inside, links relative."""

import base64
import json
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

MOST_IMAGES = 2000
TILE = 128  # pixels
TILES_PER_LINE = 8
MOST_TILES = 16_383 // TILE * TILES_PER_LINE  # of a sprite: WebP is no higher
PAGE = Path(__file__).with_name("sheet.html")


def page(
    about: dict[str, Any],
    summary: dict[str, Any],
    total: int,
    lines: list[dict[str, Any]],
    read: Callable[[str], bytes | None],
) -> str:
    """The whole page. `lines`: of `total` manifest lines, the first, failures before all; `read` fetches a sprite."""
    counts = summary["counts"]
    more = (
        f"This page shows {len(lines):,} of {total:,} images; all are in manifest.jsonl." if total > len(lines) else ""
    )
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        run=escape(about["run"]),
        counts=" · ".join(f"{counts[name]:,} {name}" for name in counts if counts[name]),
        when=escape(summary["finished_at"]),
        source=escape(about["file"]),
        more=more,
        sprites="\n".join(_sprites(lines, read)),
        cards="\n".join(_card(line) for line in lines),
    )


def _sprites(lines: Iterable[dict[str, Any]], read: Callable[[str], bytes | None]) -> Iterable[str]:
    """One CSS rule per sprite: the picture stands in the page once, however many tiles show it."""
    for key in dict.fromkeys(line["thumb"]["key"] for line in lines if "thumb" in line):
        data = base64.b64encode(read(key) or b"").decode()
        yield f".{_css_class(key)}{{background-image:url(data:image/webp;base64,{data})}}"


def _css_class(key: str) -> str:
    return "t" + "".join(c if c.isalnum() else "_" for c in key.removeprefix("thumbs/").removesuffix(".webp"))


def _card(line: dict[str, Any]) -> str:
    job = line["job"]
    details = escape(json.dumps(job, ensure_ascii=False, indent=1))
    wide = f" wide{line['thumb'].get('count', 1)}" if "thumb" in line else ""
    return (
        f'<figure class="{line["state"]}{wide}">{_picture(line)}<figcaption>'
        f"<b>{line['row']}</b> <span>{escape(_title(job))}</span>"
        f"<small>{escape(' · '.join(_settings(job, line['n'])))}</small>"
        f"{_name(line)}{_reason(line)}<details><summary>all parameters</summary><pre>{details}</pre></details>"
        "</figcaption></figure>"
    )


def _title(job: dict[str, Any]) -> str:
    """What the row is about: its action and selection where it has them, and its prompt."""
    selection = job.get("mask_text", "")
    words = (job.get("action", "").replace("_", " "), f"“{selection}”" if selection else "", job.get("prompt", ""))
    return " ".join(word for word in words if word) or job["kind"]


def _name(line: dict[str, Any]) -> str:
    """Of an edit, whose picture this is; and what is remarkable about it."""
    words = (line.get("filename", ""), line.get("note", ""))
    return "".join(f"<small>{escape(word)}</small>" for word in words if word)


def _settings(job: dict[str, Any], n: int) -> Iterable[str]:
    if job["kind"] != "txt2img":
        yield job["kind"]
    if "seed" in job:
        yield f"seed {job['seed'] + n}"
        yield f"{job['num_inference_steps']} steps"
        yield job["scheduler"]
        yield f"guidance {job['guidance_scale']:g}"
    if "strength" in job:
        yield f"strength {job['strength']:g}"
    yield f"{job['width']}×{job['height']}"


def _picture(line: dict[str, Any]) -> str:
    """The picture, linked; of an edit its input, its mask and its result side by side."""
    if "thumb" not in line:
        return '<div class="thumb none">no picture</div>'
    thumb = line["thumb"]
    tiles = range(thumb["tile"], thumb["tile"] + thumb.get("count", 1))
    name, link = _css_class(thumb["key"]), escape(line["key"], quote=True)
    alt = escape(_title(line["job"]), quote=True)
    shown = "".join(
        f'<div class="thumb {name}" style="{_position(tile)}" role="img" aria-label="{alt}"></div>' for tile in tiles
    )
    return f'<a class="strip" href="{link}">{shown}</a>'


def _position(tile: int) -> str:
    x, y = tile % TILES_PER_LINE * TILE, tile // TILES_PER_LINE * TILE
    return f"background-position:-{x}px -{y}px"


def _reason(line: dict[str, Any]) -> str:
    if line["state"] == "done":
        return ""
    return f'<p class="reason">{escape(line["state"])}: {escape(line["error_type"])}: {escape(line["error"])}</p>'
