"""A real Valkey and a real S3 for every test that asks, in a folder of their own; never `.pixelmill/`."""

import itertools
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from edit_files import Given, draw
from fleet import Fleet, write_models

from producer import stack
from shared import settings as settings_

DATABASES = 16  # Valkey's default

# The same cases every time, and no deadline: how long a case takes says more about the machine than about the code.
hypothesis.settings.register_profile("pixelmill", deadline=None, derandomize=True)
hypothesis.settings.load_profile("pixelmill")

_database = itertools.count(1)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of torch in this process: with several, rounding depends on a picture's place in the batch, and on a busy machine
    they wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def stack_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    root = tmp_path_factory.mktemp("stack")
    yield stack.up(root, workers=False, flower=False).env
    stack.down(root)


@pytest.fixture
def settings(stack_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> settings_.Settings:
    """An empty broker and a new bucket name, for this process and for those that the test starts."""
    for name in [name for name in os.environ if name.startswith("PIXELMILL_")]:
        monkeypatch.delenv(name)
    own = stack_env | {
        "PIXELMILL_REDIS_URL": _empty_database(stack_env["PIXELMILL_REDIS_URL"]),
        "PIXELMILL_S3_BUCKET": f"test-{secrets.token_hex(6)}",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return settings_.load()


def _empty_database(url: str) -> str:
    own = f"{url.rpartition('/')[0]}/{next(_database) % DATABASES}"
    with redis.Redis.from_url(own) as client:
        client.flushdb()
    return own


@pytest.fixture
def fleet(settings: settings_.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    own = {"MODELS": write_models(tmp_path), "LEASE_S": 3, "HEARTBEAT_S": 0.5, "REDELIVER_S": 1, "THREADS": 1}
    for name, value in own.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(settings_.load(), tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def given(pictures: Path) -> Given:
    return Given(pictures)
