"""From a checked file to a run: job parts into the storage, its description last, then the ledger."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from producer import order, plan, restore, reuse, rows
from producer.alone import alone
from producer.entry import Entry
from producer.parts import Parts
from producer.rows import ReadOptions, Rejected, Report
from producer.stocking import Stocking
from shared import jobs, keys
from shared.catalog import Catalog
from shared.errors import RunConflict
from shared.queue import BULK
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store


@dataclass(frozen=True)
class Request:
    """What one `produce --csv` asks for."""

    path: Path
    options: ReadOptions
    run: str | None = None
    skip_bad: bool = False
    reuse: str | None = None
    lane: str | None = None  # None: bulk, or where the run is that is joined


@dataclass(frozen=True)
class Submitted:
    """What became of a request. `again`: failed rows that a join sent out anew; `copied`: pictures reused."""

    run: str
    joined: bool
    again: int = 0
    copied: int = 0


def run_hash(report: Report, options: ReadOptions, catalog: Catalog) -> str:
    """What a run is made from: file, run-level defaults, inputs, models and their defaults; equal for equal runs."""
    models = {name: catalog.models[name] for name in report.models}
    value = {
        "file": report.file_sha256,
        "fills": dict(options.fills),
        "limit": options.limit,
        "salt": options.salt,
        "models": {name: [model.identity, model.defaults.model_dump()] for name, model in models.items()},
        "inputs": report.inputs_sha256,
        "schema": jobs.SCHEMA_VERSION,
    }
    return hashlib.sha256(jobs.canonical_json(value).encode()).hexdigest()


def run_name(wanted: str | None, path: Path, digest: str) -> str:
    """The name that the user gave, or one that says where the run comes from. Raises UsageError."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "run"
    return keys.checked_run(wanted or f"{stem[:55]}-{digest[:8]}")


class Submission:
    """A request, checked, with the storage and the ledger that it goes into."""

    def __init__(self, request: Request, report: Report, catalog: Catalog, ledger: Ledger, store: Store):
        self.request = request
        self.report = report
        self.catalog = catalog
        self.ledger = ledger
        self.store = store
        self.hash = run_hash(report, request.options, catalog)
        self.run = run_name(request.run, request.path, self.hash)

    def submit(self) -> Submitted:
        """Make the run, or join the one that was made from the same. Raises RunConflict if it was made from another."""
        with alone(self.ledger, self.run) as check:
            standing = self.store.get(keys.description(self.run))
            if standing is not None:
                return self._join(json.loads(standing), check)
            # Without a description there is no run: what lies here is left from one that was removed or never begun.
            self.store.delete_all(keys.prefix(self.run))
            about, copied = self._store_parts(check)
            check()
            self.store.put_new(keys.description(self.run), json.dumps(about).encode(), "application/json")
            restore.open_run(self.ledger, self.store, about, keep_lock=check)
            return Submitted(self.run, joined=False, copied=copied)

    def _join(self, about: dict[str, Any], check: Callable[[], object]) -> Submitted:
        if about["hash"] != self.hash:
            raise RunConflict(
                f"run {self.run} exists and was made from another file or other settings ({about['file']}, "
                f"{about['created_at']}); a run never changes: choose another --run name, or --reuse {self.run} "
                "to keep the pictures of rows that are equal"
            )
        state = self.ledger.facts(self.run).get("state", "opening")
        if state == "opening":  # nobody finished opening it, or the broker lost its data
            restore.open_run(self.ledger, self.store, about, look=True, keep_lock=check)
            return Submitted(self.run, joined=True)
        if self.request.lane:
            self.ledger.move(self.run, self.request.lane)
        if state == "canceled":
            raise RunConflict(f"run {self.run} is being canceled; produce it again when its workers have stopped")
        if self.ledger.counts(self.run)["canceled"] or self.ledger.failed_rows(self.run):
            self._restock(check)
        return Submitted(self.run, joined=True, again=restore.retry(self.ledger, self.store, about, check))

    def _restock(self, check: Callable[[], object]) -> None:
        """Rows may have failed because somebody removed their inputs from the storage."""
        with Stocking(self.store, self.report.inputs, check) as stocking:
            stocking.add(self.report.inputs.files())
            stocking.close()

    def _store_parts(self, check: Callable[[], object]) -> tuple[dict[str, Any], int]:
        settings: Settings = self.ledger.settings
        with (
            Parts(self.store, self.run) as parts,
            Stocking(self.store, self.report.inputs, check) as stocking,
            reuse.earlier(self.store, self.request.reuse, check) as earlier,
        ):
            rows_per_shard = plan.shard_rows(self.report.rows, settings.shard_rows, settings.batch_images)
            ordered = order.by_image(self._rows(parts, stocking))
            for shard in plan.shards(ordered, rows_per_shard, most_of_a_group=settings.shard_rows):
                copied = [earlier.copy(row.text, self.run) for row in shard.rows] if earlier else [False]
                part = parts.parts
                parts.add(shard, look=any(copied))
                if earlier or parts.parts > part:
                    check()
            stocking.close()
            parts.close()
            return self._about(parts), earlier.copied if earlier else 0

    def _rows(self, parts: Parts, stocking: Stocking) -> Iterator[Entry]:
        """The good rows, their inputs on the way to the storage; the others, which --skip-bad leaves out, go aside."""
        request = self.request
        found = rows.read(request.path, request.options, self.catalog, self.ledger.settings, self.report)
        for row in found:
            if isinstance(row, Rejected):
                parts.reject(row.as_line())
            else:
                if row.inputs:
                    stocking.add(row.inputs)
                yield row

    def _about(self, parts: Parts) -> dict[str, Any]:
        options, report = self.request.options, self.report
        return {
            "run": self.run,
            "hash": self.hash,
            "schema": jobs.SCHEMA_VERSION,
            "file": os.fsencode(self.request.path.name).decode("utf-8", "replace"),
            "file_sha256": report.file_sha256,
            "header": list(report.columns),
            "seed_column": report.seed_column,
            "path_columns": list(report.path_columns),
            "folder": os.fsencode(self.request.path.parent.resolve()).decode("utf-8", "replace"),
            "lane": self.request.lane or BULK,
            "rows_read": report.read,
            "rows": report.rows,
            "rows_skipped": report.rejected,
            "images": report.images,
            "shards": parts.shards,
            "parts": parts.parts,
            "options": {"fills": dict(options.fills), "limit": options.limit, "seed_salt": options.salt},
            "models": {name: self.catalog.models[name].identity for name in sorted(report.models)},
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
