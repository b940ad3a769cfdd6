"""Runs beside each other: who gets how much of the fleet, and what stays of a run that is canceled."""

import time

import oracle
import pytest
from fleet import wait_for
from mill import Mill

from shared.runs import Ledger

pytestmark = pytest.mark.timeout(900)


def done(ledger: Ledger, run: str) -> int:
    return ledger.counts(run)["done"]


def drawn(mill: Mill) -> list[str]:
    return mill.drawn.read_text().splitlines() if mill.drawn.exists() else []


def test_two_equal_runs_share_the_fleet(mill: Mill) -> None:
    with mill.worker():
        first, second = mill.begin("first", 1536, "picture"), mill.begin("second", 1536, "picture")
        wait_for(lambda: mill.ledger.counts(first)["open"] == 0, "the end of the first", 240)
        part = done(mill.ledger, second) / 1536
        for run in (first, second):
            oracle.check(mill, run, 1536)
    mill.figures.append(f"when the first ends, {part:.0%} of the second is done")
    assert part >= 1 / 3


def test_a_run_of_ten_rows_behind_one_of_thousands(mill: Mill) -> None:
    with mill.worker():
        large, small = mill.begin("large", 3000, "picture"), mill.begin("small", 10, "picture")
        wait_for(lambda: mill.ledger.counts(small)["open"] == 0, "the small one's end", 240)
        part = done(mill.ledger, large) / 3000
        oracle.check(mill, small, 10)
        oracle.check(mill, large, 3000)
    mill.figures.append(f"when the small one ends, {part:.0%} of the large one is done")
    assert part < 1 / 3


def test_a_run_of_10_000_rows_that_is_canceled_while_it_runs(mill: Mill) -> None:
    with mill.worker(), mill.worker(1):
        run, beside = mill.begin("canceled", 10_000), mill.begin("beside", 256, "picture")
        wait_for(lambda: any(line.endswith("of file 0") for line in drawn(mill)), "its first rows", 120)
        begun = time.monotonic()
        mill.ledger.cancel(run)
        wait_for(lambda: not any(key[0] == run for key in mill.held()), "its workers to let go")
        mill.figures.append(f"no worker runs it {time.monotonic() - begun:.1f} s later")
        finished = done(mill.ledger, run)
        oracle.check(mill, beside, 256)
        oracle.check(mill, run, 10_000, canceled=10_000 - finished)
    assert finished == sum(line.endswith("of file 0") for line in drawn(mill))
