"""The lease under which a run is submitted, joined and tried again, against a real broker."""

from collections.abc import Iterator

import pytest
from fleet import wait_for

from producer import alone
from shared.errors import Unreachable, UsageError
from shared.runs import Ledger
from shared.settings import Settings

LOCK = "lock:submit:r"


@pytest.fixture
def ledger(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(alone, "LEASE_S", 0.5)
    monkeypatch.setattr(alone, "BEAT_S", 0.05)
    ledger = Ledger(settings)
    yield ledger
    ledger.redis.close()


def test_a_run_is_its_holder_s_for_as_long_as_the_holder_lives(ledger: Ledger) -> None:
    with alone.alone(ledger, "r"):
        begun = ledger.now_ms()
        wait_for(lambda: ledger.now_ms() > begun + 1500, "three leases")
        with pytest.raises(UsageError, match="run r is being submitted"), alone.alone(ledger, "r", wait_s=0):
            pass
    with alone.alone(ledger, "r", wait_s=0):
        pass


def test_a_run_is_free_one_lease_after_its_holder_was_killed(ledger: Ledger) -> None:
    ledger.redis.set(LOCK, "of the dead", px=500)
    with alone.alone(ledger, "r"):
        assert ledger.redis.get(LOCK) != "of the dead"


def test_whoever_lost_the_lease_is_stopped_and_extends_nobody_else_s(ledger: Ledger) -> None:
    with pytest.raises(Unreachable, match="ran out"), alone.alone(ledger, "r") as check:  # noqa: PT012
        check()
        ledger.redis.set(LOCK, "of another", px=60_000)
        begun = ledger.now_ms()
        wait_for(lambda: ledger.now_ms() > begun + 200, "beats")
        check()
    assert ledger.redis.get(LOCK) == "of another"
    assert ledger.redis.pttl(LOCK) > 30_000
