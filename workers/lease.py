"""Keeping a claim alive while a shard runs."""

import logging
import threading
from types import TracebackType

from shared.errors import Canceled, LeaseLost, Unreachable
from shared.runs import Ledger
from shared.shards import Claim

log = logging.getLogger(__name__)


class Heartbeat:
    """Extends a claim's lease from a thread of its own; `check` raises LeaseLost once another holds the shard, Canceled
    once its run is canceled."""

    def __init__(self, ledger: Ledger, claim: Claim):
        self.ledger = ledger
        self.claim = claim
        self._lost: LeaseLost | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raises LeaseLost if the shard is no longer ours."""
        if self._lost is not None:
            raise self._lost

    def _beat(self) -> None:
        while not self._stop.wait(self.ledger.settings.heartbeat_s):
            try:
                self.ledger.extend(self.claim)
            except Canceled as error:
                self._lost = error  # the shard stays ours until what is finished is stored
            except LeaseLost as error:
                self._lost = error
                return
            except Unreachable as error:
                log.warning("no heartbeat: %s", error)
