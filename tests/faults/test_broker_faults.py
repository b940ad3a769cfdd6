"""The broker dropped, killed, stopped, frozen, full, damaged, and fed with garbage."""

import base64
import json
import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import oracle
import pytest
from fleet import wait_for
from mill import Mill
from own_broker import OwnBroker

from shared import queue
from shared.errors import Unreachable


def await_done(mill: Mill, run: str, rows: int) -> None:
    wait_for(lambda: mill.ledger.counts(run)["done"] >= rows, f"{rows} rows")


@contextmanager
def repeated(action: object, every_s: float) -> Iterator[None]:
    stop = threading.Event()

    def again() -> None:
        while not stop.wait(every_s):
            action()  # type: ignore[operator]

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_connections_that_are_dropped_every_second(broker: OwnBroker, mill: Mill) -> None:
    with mill.worker() as worker, repeated(lambda: broker.client.client_kill_filter(_type="normal", skipme=True), 1.0):
        for number in range(3):
            oracle.check(mill, mill.begin(f"dropped-{number}", 64), 64)
        assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("leave", "away_s", "come_back"),
    [("kill", 0, "start"), ("kill", 8, "start"), ("stop", 0, "start"), ("stop", 8, "start"), ("freeze", 6, "thaw")],
)
def test_a_broker_that_is_away(broker: OwnBroker, mill: Mill, leave: str, away_s: float, come_back: str) -> None:
    with mill.worker():
        run = mill.begin("away", 96)
        await_done(mill, run, 8)
        with mill.fault():
            getattr(broker, leave)()
            time.sleep(away_s)
            getattr(broker, come_back)()
        oracle.check(mill, run, 96)
        oracle.check_uncharged(mill, run)


def test_a_broker_that_is_full_refuses_a_run_and_takes_it_later(broker: OwnBroker, mill: Mill) -> None:
    with mill.worker() as worker:
        first = mill.begin("before", 64)
        await_done(mill, first, 8)
        with mill.fault():
            broker.client.config_set("maxmemory", 1 << 20)
            with pytest.raises(Unreachable, match="maxmemory"):
                mill.begin("full", 64)
            time.sleep(3)
            broker.client.config_set("maxmemory", 0)
        worker.revive()  # kombu ends over a message that it can take but not note
        run = mill.begin("full", 64)
        oracle.check(mill, first, 64)
        oracle.check(mill, run, 64)


@pytest.mark.parametrize("size_bytes", [1, 700, 8_000, 64_000])
def test_a_power_cut_that_takes_the_end_of_the_broker_s_log(broker: OwnBroker, mill: Mill, size_bytes: int) -> None:
    with mill.worker():
        run = mill.begin("cut", 128, "picture")
        await_done(mill, run, 32)
        with mill.fault():
            broker.stop()
            broker.cut(size_bytes)
            broker.start()
            produce_again(mill, run)
        oracle.check(mill, run, 128)


def produce_again(mill: Mill, run: str) -> None:
    """What a user does after a power cut: the same command once more."""
    path = mill.folder / f"{run}.csv"
    mill.submit(path.read_text(), name=path.name, run=run)


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def envelope(body: bytes, content_type: str, task: str) -> bytes:
    headers = {"lang": "py", "task": task, "id": "x", "root_id": "x", "parent_id": None, "group": None}
    properties = {
        "correlation_id": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "bulk"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "x",
    }
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8" if content_type == "application/json" else "binary",
        "content-type": content_type,
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(message).encode()


def garbage(trace: Path) -> dict[str, bytes]:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

    def body(kwargs: object, *args: object) -> bytes:
        return json.dumps([args, kwargs, embed]).encode()

    own = queue.RUN_SHARD
    return {
        "bytes": os.urandom(500),
        "no json object": b"[]",
        "an empty object": b"{}",
        "pickle": envelope(pickle.dumps(Bomb(trace)), "application/x-python-serialize", own),
        "an unknown task": envelope(body({}), "application/json", "os.system"),
        "wrong arity": envelope(body({"run": "r"}, 1, 2, 3, 4), "application/json", own),
        "wrong types": envelope(body({"run": [1], "shard": {"a": 1}, "version": 1}), "application/json", own),
        "names of other keys": envelope(
            body({"run": "before:done", "shard": "0", "version": 1}), "application/json", own
        ),
        "a body that is no task": envelope(b'"text"', "application/json", own),
        "deep JSON": b"[" * 200_000 + b"]" * 200_000,
        "a deep body": envelope(b"[" * 200_000 + b"]" * 200_000, "application/json", own),
    }


@pytest.mark.parametrize("what", list(garbage(Path())))
def test_garbage_in_the_queue(broker: OwnBroker, mill: Mill, what: str) -> None:
    trace = mill.folder / "executed"
    with mill.worker() as worker:
        oracle.check(mill, mill.begin("before", 8, "picture"), 8)
        for lane in queue.LANES:
            broker.client.lpush(lane, garbage(trace)[what])
        with mill.fault(kills=0):
            run = mill.begin("beside", 16, "picture")
        kept_alive(mill, worker, run, 16)
    assert not trace.exists()


def kept_alive(mill: Mill, worker: object, run: str, count: int) -> None:
    """As a supervisor does: a worker that ends is started again."""

    def over() -> bool:
        if worker.process.poll() is not None:  # type: ignore[attr-defined]
            worker.start()  # type: ignore[attr-defined]
        return mill.ledger.facts(run).get("state") == "over"

    wait_for(over, f"run {run} to be over", 120)
    oracle.check(mill, run, count)
