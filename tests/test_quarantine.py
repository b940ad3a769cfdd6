"""A device that breaks again and again gets no more shards, and nothing is lost by it; and how a host stops in time."""

import io
import json
from types import SimpleNamespace

import psutil
import pytest
from fleet import Fleet, wait_for
from rich.console import Console

from producer import diagnosis, follow, listing
from shared import keys
from workers.quarantine import is_due

PATIENCE_S = 400.0  # several processes after one another import torch
pytestmark = pytest.mark.timeout(600)
# Rows of different steps share no shard.
TWELVE = "prompt,steps\n" + "".join(f"picture,{steps}\n" for steps in range(1, 13))
DEADLY = "prompt,steps\n" + "".join(f"kill,{steps}\n" for steps in range(1, 5))


@pytest.mark.parametrize(
    ("exits", "due"),
    [
        ([], False),
        ([(0, "a"), (1, "b")], False),
        ([(0, "a"), (1, "b"), (2, "c")], True),
        ([(0, "a"), (1, "a"), (2, "a"), (3, "b")], False),
        ([(0, "a"), (300, "b"), (600, "c")], True),
        ([(0, "a"), (300, "b"), (601, "c")], False),
        ([(0, "a"), (601, "b"), (602, "a"), (603, "c")], True),
    ],
)
def test_three_exits_on_different_shards_within_ten_minutes_are_enough(exits, due) -> None:
    assert is_due(exits) is due


def test_a_device_that_breaks_every_time_is_left_alone_and_another_does_all_rows(
    fleet: Fleet, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("NULL_MODEL_FAULTY", str(fleet.folder / "faulty"))
    with fleet.supervisor("cpu", tick_s="0.2") as supervisor:
        monkeypatch.delenv("NULL_MODEL_FAULTY")
        run = fleet.submit(TWELVE).run
        wait_for(lambda: follow.quarantines(fleet.ledger.workers()), "the quarantine", PATIENCE_S)
        wait_for(lambda: not psutil.Process(supervisor.pid).children(), "the end of the worker's process")
        ((name, text),) = follow.quarantines(fleet.ledger.workers()).items()
        told(fleet, run, name, text, capsys)
        with fleet.worker(1):
            assert fleet.finish(run)["done"] == 12
        assert not psutil.Process(supervisor.pid).children()

    assert "broke on 3 shards within 10 minutes, the last time with: CUDA error: unspecified launch failure;" in text
    assert text.endswith(f"restart `python -m workers` on {name.partition('@')[2]} to try it again")
    assert {json.loads(line)["attempts"] for line in fleet.lines(run)} == {1}


def told(fleet: Fleet, run: str, name: str, text: str, capsys) -> None:
    """Everyone who asks hears it."""
    session = SimpleNamespace(store=fleet.store, ledger=fleet.ledger)
    assert listing.status(session, run, as_json=False) == 0
    assert f"\n  worker {name}: {text}\n" in capsys.readouterr().out
    assert follow.unserved(fleet.ledger, run) == f"no live worker can serve null: {name}: {text}"
    (finding,) = diagnosis.judge_workers(fleet.ledger.workers(), local=False)
    assert (finding.level, text) == ("warning", f"device {finding.found}; {finding.advice}")
    console = Console(record=True, width=1000, file=io.StringIO())
    served = follow.Served(fleet.ledger, console)
    served.look(run)
    served.look(run)
    assert console.export_text() == f"worker {name}: {text}\n"


def test_processes_that_are_killed_do_not_count_against_their_device(fleet: Fleet) -> None:
    with fleet.supervisor("cpu", tick_s="0.2"):
        deadly = fleet.submit(DEADLY, "deadly.csv").run
        wait_for(lambda: dead_shards(fleet, deadly) >= 3, "three deaths", PATIENCE_S)
        good = fleet.submit(TWELVE, "good.csv", lane="interactive").run
        assert fleet.finish(good)["done"] == 12
        assert not follow.quarantines(fleet.ledger.workers())


def dead_shards(fleet: Fleet, run: str) -> int:
    """On how many a worker died."""
    names = [key.rpartition(":")[2] for key in fleet.ledger.redis.scan_iter(keys.shard(run, "*"))]
    return sum(bool(shard and shard.deaths) for shard in (fleet.ledger.shard(run, name) for name in names))


def test_a_host_that_stops_hands_back_what_it_had_to_kill_and_charges_nobody(fleet: Fleet) -> None:
    text = "prompt\n" + "picture\n" * 3 + "hang\n"
    with fleet.supervisor("cpu", tick_s="0.2", lease_s="86400", grace_s="2") as supervisor:
        run = fleet.submit(text).run
        wait_for(lambda: running(fleet, run), "the model call that takes too long", PATIENCE_S)
        (held,) = running(fleet, run)
        supervisor.terminate()
        assert supervisor.wait(60) == 0
        assert fleet.ledger.workers() == {}

    handed_back = fleet.ledger.shard(run, held)
    assert handed_back is not None
    assert (handed_back.deaths, handed_back.running_rows) == ({}, ())
    assert handed_back.state in ("pending", "queued")


def running(fleet: Fleet, run: str) -> list[str]:
    """The shards in which a model call runs."""
    names = [key.rpartition(":")[2] for key in fleet.ledger.redis.scan_iter(keys.shard(run, "*"))]
    return [name for name in names if (shard := fleet.ledger.shard(run, name)) and shard.running_rows]
