"""The storage away, failing, slow, broken off in the middle, and ignoring conditions; disks that are full."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import faulty_s3
import oracle
import proxy
import pytest
from fleet import wait_for
from mill import Mill

from shared.errors import Unreachable
from shared.store import Store
from workers.patience import patiently


def test_a_storage_that_is_down_for_a_while(mill: Mill) -> None:
    with proxy.before(mill.settings.s3_endpoint) as way, mill.worker(s3_endpoint=f"http://127.0.0.1:{way.port}"):
        run = mill.begin("down", 48)
        wait_for(lambda: mill.ledger.counts(run)["done"] >= 8 or mill.held(), "a shard that runs")
        with mill.fault(kills=0):
            way.go_away()
            wait_for(mill.drawn.exists, "a model call")
            mill._stop.wait(5)
            way.come_back()
        oracle.check(mill, run, 48)
        oracle.check_uncharged(mill, run)


@pytest.mark.parametrize(
    ("fault", "every"), [("500", 3), ("503", 3), ("slow", 1), ("reset", 2), ("cut-put", 3), ("no-conditions", 1)]
)
def test_a_storage_whose_answers_to_workers_are(mill: Mill, fault: str, every: int) -> None:
    with faulty_s3.before(mill.settings.s3_endpoint) as way, mill.worker(s3_endpoint=way.endpoint):
        way.fault, way.every = fault, every
        oracle.check(mill, mill.begin("faulty", 40), 40)
        assert way.hits > 10


@pytest.mark.parametrize(("fault", "hits"), [("500", 40), ("reset", 3)])  # an upload's answer has no body to break
def test_a_storage_that_fails_for_longer_than_any_retry(mill: Mill, fault: str, hits: int) -> None:
    with faulty_s3.before(mill.settings.s3_endpoint) as way, mill.worker(s3_endpoint=way.endpoint):
        run = mill.begin("failing", 48)
        wait_for(mill.drawn.exists, "a model call")
        with mill.fault(kills=0):
            way.fault = fault
            wait_for(lambda: way.hits > hits, "requests that fail")
            way.fault = "none"
        oracle.check(mill, run, 48)
        oracle.check_uncharged(mill, run)


def test_a_worker_killed_beside_a_storage_that_ignores_conditions(mill: Mill) -> None:
    with faulty_s3.before(mill.settings.s3_endpoint) as way:
        way.fault = "no-conditions"
        store = Store(mill.settings.model_copy(update={"s3_endpoint": way.endpoint}))
        assert not store.enforces_conditions()
        assert [store.put_new("probe/twice", b"", "text/plain") for _ in range(2)] == [True, False]
        with mill.worker(s3_endpoint=way.endpoint) as worker:
            run = mill.begin("unconditional", 32)
            wait_for(mill.drawn.exists, "a model call")
            with mill.fault():
                worker.kill()
            worker.start()
            oracle.check(mill, run, 32)


PAIRS = 200


def test_two_writers_of_one_picture_at_once(mill: Mill) -> None:
    writers = [Store(mill.settings) for _ in range(2)]
    together = threading.Barrier(2)
    for number in range(PAIRS):

        def write(which: int, key: str = f"runs/pairs/images/{number}.png") -> bool:
            together.wait()
            return patiently(lambda: writers[which].put_new(key, body(which), "image/png"))

        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(write, range(2)))
        assert sorted(won) == [False, True], f"pair {number}"
        assert mill.store.get(f"runs/pairs/images/{number}.png") == body(won.index(True))
    mill.figures.append(f"{PAIRS} pairs, one winner each")


def body(writer: int) -> bytes:
    """As large as a picture, and each writer's own, to see whose it is that stands."""
    return bytes([writer]) * 300_000


FINISH = """
import resource, sys
from shared import finish, settings
from shared.runs import Ledger
from shared.store import Store
known = settings.load()
ledger, store = Ledger(known), Store(known)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(0 if finish.tick(ledger, store) else 9)
"""


def test_a_full_disk_under_the_end_files_and_the_worker_leaves_the_run_to_the_next_try(mill: Mill) -> None:
    mill._finish = lambda: None  # type: ignore[method-assign]
    with mill.worker():
        run = mill.begin("disk", 24, "picture")
        wait_for(lambda: mill.ledger.facts(run)["state"] == "finishing", "the last row")
    code = subprocess.run([sys.executable, "-c", FINISH, "2000"], check=False).returncode
    assert code != 0
    assert mill.store.get(f"runs/{run}/summary.json") is None
    del mill._finish
    oracle.check(mill, run, 24)


PRODUCE = """
import resource, sys
from producer import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(cli.main(["--csv", sys.argv[1], "--run", "small", "--no-wait"]))
"""


def test_a_full_disk_under_the_producer_leaves_a_whole_run_or_none(mill: Mill) -> None:
    (mill.folder / "small.csv").write_text("prompt\n" + "".join(f"picture {row} of small\n" for row in range(1, 9)))
    done = subprocess.run(
        [sys.executable, "-c", PRODUCE, str(mill.folder / "small.csv")], capture_output=True, text=True, check=False
    )
    whole = mill.store.get("runs/small/run.json") is not None
    assert whole == (done.returncode == 0), done.stderr
    assert "Traceback" not in done.stderr
    text = (mill.folder / "small.csv").read_text()
    with mill.worker():
        mill.submit(text, name="small.csv", run="small")
        oracle.check(mill, "small", 8)


def test_a_storage_that_fails_while_a_run_is_submitted(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    near = mill.store
    with faulty_s3.before(mill.settings.s3_endpoint) as way:
        mill.store = Store(mill.settings.model_copy(update={"s3_endpoint": way.endpoint}))
        way.fault, way.every = "500", 2
        while not mill.runs:  # it is refused when a request fails five times; the same command again goes on
            with suppress(Unreachable):
                mill.begin("submitted", 24, "picture")
        assert way.hits > 3
        mill.store = near
    with mill.worker():
        oracle.check(mill, "submitted", 24)
