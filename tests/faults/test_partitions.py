"""Ways to broker and storage that swallow what is sent, and both away for minutes."""

import re
from collections.abc import Iterator

import oracle
import proxy
import pytest
from fleet import wait_for
from mill import Mill
from own_broker import OwnBroker

SWALLOWED_S = 6.0  # three leases
STORAGE_AWAY_S, BROKER_AWAY_S = 300.0, 120.0


def ends_of(service: str, mill: Mill) -> tuple[str, str]:
    """The setting that names a service, and its address."""
    return {
        "broker": ("redis_url", mill.settings.redis_url.get_secret_value()),
        "storage": ("s3_endpoint", mill.settings.s3_endpoint),
    }[service]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["requests", "answers"])
@pytest.mark.parametrize("service", ["broker", "storage"])
def test_a_way_that_swallows(mill: Mill, service: str, what: str) -> None:
    setting, address = ends_of(service, mill)
    with proxy.before(address) as way:
        own = {setting: re.sub(r":[0-9]+(/[0-9]+)?$", rf":{way.port}\1", address).replace("localhost", "127.0.0.1")}
        with mill.worker(**own):
            run = mill.begin("parted", 256)
            wait_for(mill.drawn.exists, "its first rows", 120)
            with mill.fault():
                way.swallow(what)
                mill._stop.wait(SWALLOWED_S)
                way.let_through()
            with mill.worker(1):
                oracle.check(mill, run, 256)
            oracle.check(mill, mill.begin("alone", 16), 16)  # the parted worker takes part again


@pytest.fixture
def way(settings: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[proxy.Proxy]:
    """The way to the storage for everybody; ask for it before the mill."""
    with proxy.before(settings.s3_endpoint) as way:  # type: ignore[attr-defined]
        monkeypatch.setenv("PIXELMILL_S3_ENDPOINT", f"http://127.0.0.1:{way.port}")
        yield way


@pytest.mark.timeout(1200)
def test_a_storage_away_for_five_minutes_and_the_broker_for_the_first_two(
    broker: OwnBroker, way: proxy.Proxy, mill: Mill
) -> None:
    with mill.worker():
        run = mill.begin("away", 256)
        wait_for(lambda: mill.ledger.counts(run)["done"] >= 64, "the first shard")
        with mill.fault():
            way.go_away()
            broker.kill()
            mill._stop.wait(BROKER_AWAY_S)
            broker.start()
            mill._stop.wait(STORAGE_AWAY_S - BROKER_AWAY_S)
            way.come_back()
        oracle.check(mill, run, 256)
        oracle.check_uncharged(mill, run)
