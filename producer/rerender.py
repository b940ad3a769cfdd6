"""Pictures of a run made again, in batches of their recorded shape, and compared with those that are stored.

Workers make them, as a run of its own in the interactive lane, of which nothing stays.
"""

import heapq
import io
import json
import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from PIL import Image, ImageChops

from producer import follow, listing, plan, restore
from producer.entry import Entry
from producer.parts import Parts
from producer.session import Session
from shared import catalog, dispatch, jobs, keys, results
from shared.catalog import Catalog
from shared.errors import UsageError
from shared.jobs import Row
from shared.queue import INTERACTIVE

Line = dict[str, Any]
RECORDED = ("device", "threads", "batch_shape")  # of every picture
CONDITIONS = (*RECORDED, "memory", "compiled")
NEEDED = {"row", "n", "key", "job", "job_id", "model", *RECORDED}
SUFFIX_CHARS = len(".again-") + 6
ALONE = "its mask came out otherwise, which was perhaps found among others on its picture: how many is not recorded"


@dataclass(frozen=True)
class Again:
    """A picture made again. `kind` of fault: `other pixels` or `not made`; empty if there is none."""

    row: int
    n: int
    key: str  # of the stored one, relative to the run
    text: str
    kind: str = ""

    @property
    def where(self) -> str:
        return f"{self.key} (row {self.row})"

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def rerender(session: Session, about: dict[str, Any], count: int, quiet: bool) -> list[Again]:
    """Make `count` pictures of a run that is over again, or all if it has fewer. Raises UsageError."""
    check_models(about, catalog.load(session.ledger.settings.models))
    chosen = _choose(session, about["run"], count)
    if not chosen:
        return []
    run = f"{about['run'][: 64 - SUFFIX_CHARS]}.again-{secrets.token_hex(3)}"
    try:
        _submit(session, run, about, chosen)
        dispatch.tick(session.ledger, session.store, session.app)
        follow.follow(session.ledger, session.store, run, quiet)
        made = {int(line["row"]): line for line in _lines(session, run)}
        return [_compared(session, about["run"], line, run, made[row]) for row, line in enumerate(chosen, 1)]
    finally:
        listing.erase(session, run)


def check_models(about: dict[str, Any], known: Catalog) -> None:
    """Another model makes other pictures. Raises UsageError."""
    for name, identity in about["models"].items():
        found = known.models[name].identity if name in known.models else "none of this name"
        if found != identity:
            raise UsageError(
                f"--rerender: model {name}: found {found} in the catalog; expected {identity}, of which run "
                f"{about['run']} was made: put that one into models.toml, here and on the worker hosts"
            )


# --- the small run ---


def _choose(session: Session, run: str, count: int) -> list[Line]:
    """In the manifest's order, and each picture as likely as any other."""
    done = (line for line in _lines(session, run) if line.get("state") == "done" and line.keys() >= NEEDED)
    chosen = heapq.nlargest(count, done, key=lambda _: random.random())
    return sorted(chosen, key=lambda line: (line["row"], line["n"]))


def _lines(session: Session, run: str) -> Iterator[Line]:
    for raw in session.store.lines(keys.inside(run, "manifest.jsonl")):
        try:
            yield json.loads(raw)
        except ValueError:  # `verify` has said so
            continue


def _submit(session: Session, run: str, about: dict[str, Any], chosen: Sequence[Line]) -> None:
    """Every picture is a shard by itself: the workers share them, and no two are in one batch."""
    with Parts(session.store, run) as parts:
        for number, line in enumerate(chosen, 1):
            entry = _entry(line, number, about["models"])
            parts.add(plan.Shard(entry.key, (entry,)), look=False)
        parts.close()
        own = _about(run, about, len(chosen), parts)
    session.store.put_new(keys.description(run), json.dumps(own).encode(), "application/json")
    restore.open_run(session.ledger, session.store, own)


def _entry(line: Line, number: int, identities: dict[str, str]) -> Entry:
    try:
        row = row_of(line, number, identities)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--rerender: manifest.jsonl, row {line['row']}: its job cannot be read: {error}") from error
    model = jobs.models_text(jobs.models(row.job).values())
    return Entry(number, jobs.batch_key(row.job), 1, model, row.model_dump_json())


def row_of(line: Line, number: int, identities: dict[str, str]) -> Row:
    """A row that makes one picture: that of this line, with as many beside it as it had."""
    job = line["job"] | ({"seed": line["job"]["seed"] + line["n"]} if "seed" in line["job"] else {})
    job |= {"num_images_per_prompt": 1}
    shape = max(1, line["batch_shape"][0])  # 0: its input was kept, and no model ran
    conditions = {"batch_images": shape, "memory": line.get("memory", ())}
    row = Row(row=number, line=number, cells={}, job=job, job_id=line["job_id"], **conditions)
    own = {role: identities[name] for role, name in jobs.models(row.job).items()}
    return row.model_copy(update={"job_id": jobs.job_id(row.job.model_dump(), own)})


def _about(run: str, about: dict[str, Any], count: int, parts: Parts) -> dict[str, Any]:
    own = {
        "run": run,
        "lane": INTERACTIVE,
        "header": [],
        "path_columns": [],
        "rows_skipped": 0,
        "shards": parts.shards,
        "parts": parts.parts,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {**about, **own, **dict.fromkeys(("rows_read", "rows", "images"), count)}


# --- what came of it ---


def _compared(session: Session, run: str, before: Line, again: str, after: Line) -> Again:
    if after["state"] != "done":
        error = f"could not be made again: {after['error_type']}: {after['error']}"
        return Again(before["row"], before["n"], before["key"], error, "not made")
    stored, made = _bodies(session, run, before), _bodies(session, again, after)
    return Again(before["row"], before["n"], before["key"], *judge(before, after, stored, made))


def _bodies(session: Session, run: str, line: Line) -> list[bytes | None]:
    """The picture, and the masks that were found for it."""
    found = [line["key"], *(key for key in results.beside(line) if not key.endswith(".json"))]
    return [session.store.get(keys.inside(run, key)) for key in found]


def judge(before: Line, after: Line, stored: Sequence[bytes | None], made: Sequence[bytes | None]) -> tuple[str, str]:
    """(text, kind) of what two pictures of one job, each with its masks behind it, say of each other."""
    if after["model"]["identity"] != before["model"]["identity"]:
        found, expected = after["model"]["identity"], before["model"]["identity"]
        return f"could not be made again: a worker has model {found}; expected {expected}", "not made"
    try:
        text = difference(stored[0] or b"", made[0] or b"")
    except Exception as error:  # a decoder may raise anything over bytes that are none of its format
        return f"could not be compared ({type(error).__name__}: {error})", "other pixels"
    why = excuses(before, after, stored[1:] == made[1:])
    if why or not text:
        return "; ".join([f"made again, {text or 'with equal pixels'}", *why]), ""
    return f"made again, {text}, though device, torch, threads and batch shape are those of the record", "other pixels"


def excuses(before: Line, after: Line, masks_equal: bool) -> list[str]:
    """Why two pictures of one job may differ by rounding."""
    alike = after["batch_shape"][0] == 0  # no model ran
    pairs = {name: (after.get(name, "none"), before.get(name, "none")) for name in CONDITIONS}
    if alike:
        del pairs["batch_shape"]
    found = [f"{name.replace('_', ' ')} {now}, recorded {then}" for name, (now, then) in pairs.items() if now != then]
    return found if masks_equal or "mask_model" not in before["job"] else [*found, ALONE]


def difference(stored: bytes, made: bytes) -> str:
    """How far the pixels of two picture files lie apart; empty if they are equal. Raises what PIL raises."""
    one, other = _decoded(stored), _decoded(made)
    if one.size != other.size:
        return f"with {other.width} x {other.height} pixels instead of {one.width} x {one.height}"
    farthest = reduce(ImageChops.lighter, ImageChops.difference(one, other).split())
    counts = farthest.histogram()
    pixels = sum(counts[1:])
    most = max((value for value, count in enumerate(counts) if count), default=0)
    return f"differs by at most {most} of 255 in {pixels:,} of {one.width * one.height:,} pixels" if pixels else ""


def _decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGBA")
