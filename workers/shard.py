"""A shard from claim to commit: its rows read, its images made and stored, its results written, its rows closed."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from shared import bury, keys, results, sheet
from shared.errors import Canceled, LeaseLost, ModelError, Paused, Unreachable
from shared.images import Pixels, sprite
from shared.jobs import Row, split_models
from shared.shards import Claim, Outcome
from shared.store import JSON_LINES
from workers import batches, device, dress, finishing, fits, hang, memory, refiner, retry
from workers.batches import Item
from workers.fits import Fit
from workers.host import Draining, Host
from workers.lease import Heartbeat
from workers.loaded import Loaded
from workers.memory import Rungs
from workers.pipelines.runners import RUNNERS
from workers.uploads import Uploads

log = logging.getLogger(__name__)
Tell = Callable[[str], None]  # shows progress


class ShardRun:
    """One claimed shard on this worker. `errors` holds why an item failed: (type, text)."""

    def __init__(self, host: Host, claim: Claim, beat: Heartbeat, tell: Tell):
        self.host = host
        self.claim = claim
        self.beat = beat
        self.tell = tell
        self.rows: list[Row] = []
        self.errors: dict[tuple[int, int], tuple[str, str]] = {}
        self.finished = 0
        self.tries = 0

    def run(self) -> None:
        """Do all of it.

        Raises LeaseLost (Draining is one), ModelError, Unreachable; then nothing is committed.
        """
        tried_before = self.claim.shard.look or self.tries > 0
        self.tries += 1
        self.errors.clear()
        if tried_before and (written := self._written()):
            self.host.ledger.commit(self.claim, written)
            return
        self.rows = bury.rows_of(self.host.store, self.claim.run, self.claim.shard)
        model = self._get(split_models(self.claim.shard.model)[0])
        if isinstance(model, Loaded):
            dress.teach(model, self.rows[0].job, self._get)
        with Uploads(self.host.store, self.claim.run, model, self.host.models.identities, self.still_ours) as uploads:
            wanted = batches.items(self.rows)
            todo = self._without_stored(wanted, uploads) if tried_before else wanted
            self.finished = len(wanted) - len(todo)
            try:
                self._make(todo, model, uploads)
            except Canceled:
                self._leave_out([item for item in wanted if item not in uploads])
            except Paused:
                uploads.settle()  # whoever goes on finds them
                raise
            self._commit(wanted, uploads)

    # --- making ---

    def _make(self, todo: Sequence[Item], model: Any, uploads: Uploads) -> None:
        length = partial(_length, model)
        todo = sorted(todo, key=length)
        while todo:
            fit = self._fit(todo[0], model)
            batch = batches.first(todo, fit.images, length)
            todo = todo[len(batch) :]
            self._fetch_ahead([*batch, *todo[: len(batch)]])
            self._render(batch, model, uploads, fit.saving)

    def _leave_out(self, items: Sequence[Item]) -> None:
        """The run is canceled: these will not be made."""
        reason = (results.CANCELED, "the run was canceled before this picture was made")
        self.errors = dict.fromkeys((item.key for item in items), reason) | self.errors

    def _render(self, batch: Sequence[Item], model: Any, uploads: Uploads, saving: Rungs) -> None:
        """One batch through the model, in smaller pieces, or saving more memory, where it has to be."""
        self.check()
        self.host.ledger.mark_rows(self.claim, [item.row.row for item in batch])
        action = self._try(batch, model, uploads, saving)
        self._remember(batch, model, action, saving)
        if isinstance(action, retry.Bury):
            self.errors |= dict.fromkeys((item.key for item in batch), (action.error_type, action.error))
        elif isinstance(action, retry.Save):
            self._render(batch, model, uploads, (*saving, action.rung))
        elif action is not None:
            pieces = batches.halves(batch) if isinstance(action, retry.Halve) else [[item] for item in batch]
            for piece in pieces:
                self._render(piece, model, uploads, saving)

    def _try(self, batch: Sequence[Item], model: Any, uploads: Uploads, saving: Rungs) -> retry.Action | None:
        # The traceback keeps tensors alive (pytorch#18853): only the error's meaning may outlive this function.
        start = time.perf_counter()
        try:
            with hang.watched(self.host.settings.hang_s):
                ready, refused = self.host.preparation.prepare(batch)
                hang.alive(self.host.settings.hang_s)
                pictures = self._run(ready, model, saving)
        except (LeaseLost, ModelError, Unreachable):
            raise
        except Exception as error:
            if retry.is_broken_device(error):
                raise  # no other call will do better
            log.warning("batch of %d: %s", len(batch), error, exc_info=True)
            return retry.decide(error, len(batch), _left(batch, model, saving))
        self.errors |= {key: (type(error).__name__, str(error)) for key, error in refused.items()}
        seconds = time.perf_counter() - start
        for item, pixels in zip(ready, pictures, strict=True):
            uploads.add(item, pixels, self._made(ready, item, model, seconds, saving))
        self.finished += len(batch)
        self._show("")
        return None

    def _run(self, ready: Sequence[Item], model: Any, saving: Rungs = ()) -> list[Pixels | None]:
        """Through the model, all that it has to draw."""
        drawn = batches.filled(_drawn(ready))
        if drawn and isinstance(model, Loaded):
            dress.dress(model, drawn[0].job, self._get)
        with refiner.beside(model, drawn, self._get), memory.saving(model, saving):
            pictures = RUNNERS[drawn[0].job.kind](drawn, model, self._on_step(drawn)) if drawn else []
        if drawn and isinstance(model, Loaded):
            pictures = self._without_unsafe(drawn, pictures, model)
        found = iter(pictures)
        return [next(found) if _is_drawn(item) else None for item in ready]

    def _get(self, name: str) -> Any:
        """A model; nothing that the shard's rows need leaves for it."""
        return self.host.models.get(name, beside=self.claim.shard.model)

    def _without_unsafe(
        self, drawn: Sequence[Item], pictures: Sequence[Pixels | None], model: Any
    ) -> list[Pixels | None]:
        if not drawn[0].job.safety_checker:
            return [*pictures]
        from workers import safety  # noqa: PLC0415  # it imports diffusers, which takes seconds

        held = safety.held_back(drawn, pictures, self._get)
        self.errors |= {key: (type(error).__name__, str(error)) for key, error in held.items()}
        return [None if item.key in held else picture for item, picture in zip(drawn, pictures, strict=True)]

    def _fetch_ahead(self, items: Sequence[Item]) -> None:
        """The inputs of this batch and of the next one, while the model works."""
        self.host.inputs.want(item.job for item in items)

    def _made(self, batch: Sequence[Item], item: Item, model: Any, seconds: float, saving: Rungs) -> dict[str, Any]:
        own = {} if item.ready is None else item.ready.seconds
        drawn = batches.filled(_drawn(batch))
        return {
            "model": {"name": model.name, "identity": model.identity},
            "device": device.describe(self.host.device),
            "threads": device.threads(),
            "batch_shape": [len(drawn), item.job.height, item.job.width],
            **({"memory": list(saving)} if drawn and saving else {}),
            "seconds": {"batch": seconds, **own},
        }

    def _on_step(self, batch: Sequence[Item]) -> Callable[[int], None]:
        steps = getattr(batch[0].job, "num_inference_steps", 1)

        def on_step(step: int) -> None:
            hang.alive(self.host.settings.hang_s)
            self.check()
            self._show(f" (+{len(batch)}: step {step + 1}/{steps})")

        return on_step

    def _show(self, more: str) -> None:
        total = sum(row.job.num_images_per_prompt for row in self.rows)
        self.tell(f"{self.finished}/{total} images{more}")

    def check(self) -> None:
        """Raises LeaseLost if the shard is no longer ours, Draining if it is to be handed back."""
        self.beat.check()
        if self.host.must_drain():
            raise Draining("this worker is asked to stop")

    def still_ours(self) -> None:
        """As `check`, for what is finished: of a canceled run too, it is stored and committed."""
        with suppress(Canceled):
            self.check()

    # --- memory ---

    def _fit(self, item: Item, model: Any) -> Fit:
        if item.row.batch_images:  # made again as it was made then
            return Fit(1, item.row.memory)
        return fits.known(self.host.ledger, self._fit_key(item, model), self.host.settings.batch_images)

    def _remember(self, batch: Sequence[Item], model: Any, action: retry.Action | None, saving: Rungs) -> None:
        """Smaller batches as soon as one did not fit; what saves memory once it was enough: a row may fit nowhere."""
        if isinstance(action, retry.Halve | retry.Save):
            device.free_memory(self.host.device)
        if isinstance(action, retry.Halve):
            self._fits(batch[0], model, Fit((len(batch) + 1) // 2))
        elif action is None and saving and not batch[0].row.batch_images:
            self._fits(batch[0], model, Fit(1, saving))

    def _fits(self, item: Item, model: Any, found: Fit) -> None:
        known = self._fit(item, model)
        if (least := fits.smaller(known, found)) != known:
            fits.remember(self.host.ledger, self._fit_key(item, model), least)

    def _fit_key(self, item: Item, model: Any) -> str:
        return fits.key(item.job, model.identity, device.memory_of(self.host.device), _length(model, item))

    # --- storing ---

    def _without_stored(self, wanted: Sequence[Item], uploads: Uploads) -> list[Item]:
        for item in wanted:
            uploads.keep(item)
        return [item for item in wanted if not uploads.kept(item)]

    def _commit(self, wanted: Sequence[Item], uploads: Uploads) -> None:
        lines: list[dict[str, Any]] = []
        tiles: list[Pixels] = []
        for item in wanted:
            line, tile = self._line(item, uploads, len(tiles))
            lines.append(line)
            tiles += tile
        lines = results.begun(lines)
        self.host.ledger.mark_rows(self.claim, ())  # whoever has lost the lease writes no results
        name, run, store = self.claim.shard.name, self.claim.run, self.host.store
        if tiles:
            sheet_image = sprite(tiles, sheet.TILE, sheet.TILES_PER_LINE)
            store.put_new(keys.inside(run, self._thumbs), sheet_image, "image/webp")
        body = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
        mine = store.put_new(keys.results(run, name), body, JSON_LINES)
        self.host.ledger.commit(self.claim, outcome(lines) if mine else self._written() or outcome(lines))

    @property
    def _thumbs(self) -> str:
        """The sheet of small copies of this try; another one may hold others."""
        return f"thumbs/{self.claim.shard.name}-{self.claim.token}.webp"

    def _line(self, item: Item, uploads: Uploads, tile: int) -> tuple[dict[str, Any], list[Pixels]]:
        attempts = self.claim.shard.deaths.get(item.row.row, 0) + 1
        if item.key not in self.errors:
            try:
                stored = uploads.result(item)
            except LeaseLost:
                raise
            except Exception as error:
                self.errors[item.key] = (type(error).__name__, str(error))
            else:
                tiles = stored.tiles if tile + len(stored.tiles) <= sheet.MOST_TILES else []
                thumb = {"thumb": {"key": self._thumbs, "tile": tile, "count": len(tiles)}} if tiles else {}
                facts = finishing.listed(item.name, stored.facts) | thumb
                line = results.done_line(item.row, item.n, f"images/{item.name}", facts, attempts)
                return line, tiles
        error_type, text = self.errors[item.key]
        state = "canceled" if error_type == results.CANCELED else "failed"
        return results.failed_line(item.row, state, error_type, text, attempts, item.n), []

    def _written(self) -> Outcome | None:
        """What an earlier try, or a worker that held the lease before, has written as this shard's results."""
        body = self.host.store.get(keys.results(self.claim.run, self.claim.shard.name))
        lines = [json.loads(line) for line in (body or b"").splitlines()]
        # Rows that were isolated since are other shards'.
        return outcome([line for line in lines if self.claim.shard.wants(line["row"])]) if body else None


def _length(model: Any, item: Item) -> int:
    """Texts of one length go together: a longer neighbour would change a shorter one's picture."""
    return model.texts.windows(item.job) if isinstance(model, Loaded) and hasattr(item.job, "prompt") else 1


def _left(batch: Sequence[Item], model: Any, saving: Rungs) -> Rungs:
    """What is made again is made as it was, or not at all."""
    return () if batch[0].row.batch_images else memory.left(memory.ladder(model), saving)


def _is_drawn(item: Item) -> bool:
    return item.ready is None or not item.ready.keep


def _drawn(items: Sequence[Item]) -> list[Item]:
    """What goes through the model: all but inputs that are kept as they are."""
    return [item for item in items if _is_drawn(item)]


def outcome(lines: Sequence[dict[str, Any]]) -> Outcome:
    """A row is done when all its images are stored."""
    bad = {line["row"]: line["state"] for line in lines if line["state"] != "done"}
    rows = dict.fromkeys(line["row"] for line in lines)
    return Outcome(
        done=tuple(row for row in rows if row not in bad),
        failed=tuple(row for row, state in bad.items() if state == "failed"),
        dead=tuple(row for row, state in bad.items() if state == "dead"),
        images=sum(line["row"] not in bad for line in lines),
    )
