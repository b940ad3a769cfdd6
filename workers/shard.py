"""A shard from claim to commit: its rows read, its images made and stored, its results written, its rows closed."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from shared import bury, keys, results, sheet
from shared.errors import Canceled, LeaseLost, ModelError, Paused, Unreachable
from shared.images import sprite
from shared.jobs import Row, split_models
from shared.shards import Claim, Outcome
from shared.store import JSON_LINES
from workers import batches, device, drawing, dress, fits, hang, memory, retry, written
from workers.batches import Item
from workers.device import Moment
from workers.drawing import Picture
from workers.fits import Fits
from workers.host import Draining, Host
from workers.lease import Heartbeat
from workers.loaded import Loaded
from workers.memory import Rungs
from workers.uploads import Uploads
from workers.written import Errors

log = logging.getLogger(__name__)
Tell = Callable[[str], None]  # shows progress


class Call(NamedTuple):
    """A model call that the device may still work on, and what its pictures become when it is over."""

    end: Moment
    rows: list[int]
    coming: list[tuple[Item, Picture, Callable[[], dict[str, Any]]]]  # as Uploads.add takes them


class ShardRun:
    """One claimed shard on this worker. `errors` holds why items failed."""

    def __init__(self, host: Host, claim: Claim, beat: Heartbeat, tell: Tell):
        self.host = host
        self.claim = claim
        self.beat = beat
        self.tell = tell
        self.rows: list[Row] = []
        self.errors: Errors = {}
        self.fits = Fits(host.ledger, host.device, host.settings.batch_images)
        self.under_way: Call | None = None
        self.finished = 0
        self.tries = 0

    def run(self) -> None:
        """Do all of it.

        Raises LeaseLost (Draining is one), ModelError, Unreachable; then nothing is committed.
        """
        tried_before = self.claim.shard.look or self.tries > 0
        self.tries += 1
        self.errors.clear()
        self.under_way = None
        if tried_before and (before := self._written()):
            self.host.ledger.commit(self.claim, before)
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
                self._hand_over(uploads)
                self._leave_out([item for item in wanted if item not in uploads])
            except (Paused, Draining, Unreachable):
                self._hand_over(uploads)
                uploads.settle()  # whoever goes on finds them
                raise
            self._commit(wanted, uploads)

    # --- making ---

    def _make(self, todo: Sequence[Item], model: Any, uploads: Uploads) -> None:
        length = partial(fits.length, model)
        todo = sorted(todo, key=length)
        if isinstance(model, Loaded):
            model.texts.expect([item.job for item in todo if hasattr(item.job, "prompt")])
        while todo:
            fit = self.fits.of(todo[0], model)
            batch = batches.first(todo, batches.most(fit.images, drawing.shapes(model)), length)
            todo = todo[len(batch) :]
            self._fetch_ahead([*batch, *todo[: len(batch)]])
            self._render(batch, model, uploads, fit.saving)
        self._hand_over(uploads)

    def _leave_out(self, items: Sequence[Item]) -> None:
        """The run is canceled: these will not be made."""
        reason = (results.CANCELED, "the run was canceled before this picture was made")
        self.errors = dict.fromkeys((item.key for item in items), reason) | self.errors

    def _render(self, batch: Sequence[Item], model: Any, uploads: Uploads, saving: Rungs) -> None:
        """One batch through the model, in smaller pieces, or saving more memory, where it has to be."""
        self.check()
        if self.under_way and self.under_way.end.over:
            self._hand_over(uploads)
        before = self.under_way.rows if self.under_way else []  # they, too, may be what ends the process
        self.host.ledger.mark_rows(self.claim, [*before, *(item.row.row for item in batch)])
        action = self._try(batch, model, uploads, saving)
        if isinstance(action, retry.Halve | retry.Save):
            device.free_memory(self.host.device)
        self.fits.note(batch, model, action, saving)
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
        start = Moment(self.host.device)
        try:
            with hang.watched(self.host.settings.hang_s):
                ready, refused = self.host.preparation.prepare(batch)
                hang.alive(self.host.settings.hang_s)
                pictures, held = drawing.draw(ready, model, saving, self._get, self._on_step(batch))
        except (LeaseLost, ModelError, Unreachable):
            raise
        except Exception as error:
            if retry.is_broken_device(error):
                raise  # no other call will do better
            log.warning("batch of %d: %s", len(batch), error, exc_info=True)
            return retry.decide(error, len(batch), _left(batch, model, saving))
        self.errors |= {key: (type(error).__name__, str(error)) for key, error in {**refused, **held}.items()}
        end = Moment(self.host.device)
        self._hand_over(uploads)
        shape = len(batches.filled(drawing.wanted(ready), drawing.shapes(model)))
        made = [partial(self._made, item, model, shape, saving, start, end) for item in ready]
        self.under_way = Call(end, [item.row.row for item in batch], list(zip(ready, pictures, made, strict=True)))
        self.finished += len(batch)
        self._show("")
        return None

    def _hand_over(self, uploads: Uploads) -> None:
        """What the last call drew goes on its way, once the device is done. Raises what the device says late."""
        if call := self.under_way:
            with hang.watched(self.host.settings.hang_s):
                call.end.wait()
            self.under_way = None
            for coming in call.coming:
                uploads.add(*coming)

    def _get(self, name: str) -> Any:
        """A model; nothing that the shard's rows need leaves for it."""
        return self.host.models.get(name, beside=self.claim.shard.model)

    def _fetch_ahead(self, items: Sequence[Item]) -> None:
        """The inputs of this batch and of the next one, while the model works."""
        self.host.inputs.want(item.job for item in items)

    def _made(self, item: Item, model: Any, shape: int, saving: Rungs, start: Moment, end: Moment) -> dict[str, Any]:
        """How; known as soon as the picture has come."""
        own = {} if item.ready is None else item.ready.seconds
        return {
            "model": {"name": model.name, "identity": model.identity},
            "device": device.describe(self.host.device),
            "threads": device.threads(),
            "batch_shape": [shape, item.job.height, item.job.width],
            **({"memory": list(saving)} if shape and saving else {}),
            **({"compiled": how} if shape and (how := getattr(model, "compiled", "")) else {}),
            "seconds": {"batch": end.since(start), **own},
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

    # --- storing ---

    def _without_stored(self, wanted: Sequence[Item], uploads: Uploads) -> list[Item]:
        for item in wanted:
            uploads.keep(item)
        return [item for item in wanted if not uploads.kept(item)]

    def _commit(self, wanted: Sequence[Item], uploads: Uploads) -> None:
        claim, store = self.claim, self.host.store
        thumbs = f"thumbs/{claim.shard.name}-{claim.token}.webp"  # of this try; another one's may hold others
        lines, tiles = written.lines(claim, wanted, uploads, self.errors, thumbs)
        self.host.ledger.mark_rows(claim, ())  # whoever has lost the lease writes no results
        if tiles:
            store.put_new(keys.inside(claim.run, thumbs), sprite(tiles, sheet.TILE, sheet.TILES_PER_LINE), "image/webp")
        body = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
        outcome = written.outcome(lines)
        mine = store.put_new(keys.results(claim.run, claim.shard.name), body, JSON_LINES)
        self.host.ledger.commit(claim, outcome if mine else self._written() or outcome)

    def _written(self) -> Outcome | None:
        """What an earlier try, or a worker that held the lease before, has written as this shard's results."""
        return written.read(self.claim, self.host.store.get(keys.results(self.claim.run, self.claim.shard.name)))


def _left(batch: Sequence[Item], model: Any, saving: Rungs) -> Rungs:
    """What is made again is made as it was, or not at all."""
    return () if batch[0].row.batch_images else memory.left(memory.ladder(model), saving)
