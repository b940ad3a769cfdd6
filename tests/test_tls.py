"""TLS to broker and storage, with certificates of an authority of the test's own."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from authority import Authority, authority
from celery import Celery
from door import door

from shared import queue
from shared.errors import Unreachable, UsageError
from shared.runs import Ledger
from shared.settings import Settings, load
from shared.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def own(folder: Path) -> Authority:
    return authority(folder, "own")


@pytest.fixture(scope="module")
def strange(folder: Path) -> Authority:
    return authority(folder, "strange")


@pytest.fixture(scope="module")
def misnamed(folder: Path) -> Authority:
    return authority(folder, "misnamed", "DNS:elsewhere.example.com")


@pytest.fixture
def tls_settings(settings: Settings, own: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The broker behind a door that speaks TLS: the one of the local stack is built without."""
    with broker_behind(own, settings, monkeypatch) as known:
        yield known


@contextmanager
def broker_behind(own: Authority, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    url = settings.redis_url.get_secret_value()
    with door(url, own) as port:
        monkeypatch.setenv("PIXELMILL_REDIS_URL", re.sub(r"^redis(.*:)[0-9]+/", rf"rediss\g<1>{port}/", url))
        monkeypatch.setenv("PIXELMILL_REDIS_CA", str(own.ca))
        yield load()


def test_ledger_and_celery_reach_a_broker_of_the_authority_that_is_named(tls_settings: Settings) -> None:
    with clients(tls_settings) as (ledger, app):
        before = ledger.queued("bulk")
        queue.send(app, "bulk", "run", "000000")
        assert ledger.queued("bulk") == before + 1


@contextmanager
def clients(settings: Settings) -> Iterator[tuple[Ledger, Celery]]:
    ledger = Ledger(settings)
    with closing(ledger.redis), closing(queue.make_app(settings)) as app:
        yield ledger, app


def refused(setting: str) -> Any:
    """By a certificate, in an error that names the setting."""
    return pytest.raises(Unreachable, match=rf"(?s)CERTIFICATE_VERIFY_FAILED.*PIXELMILL_{setting}")


@pytest.mark.parametrize("given", ["strange", ""])
def test_a_broker_of_another_authority_is_refused_to_ledger_and_celery(
    tls_settings: Settings, strange: Authority, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("PIXELMILL_REDIS_CA", str(strange.ca) if given else "")
    assert_refused(load())


def test_a_broker_whose_certificate_names_another_host_is_refused(
    settings: Settings, misnamed: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker_behind(misnamed, settings, monkeypatch) as known:
        assert_refused(known)


def assert_refused(settings: Settings) -> None:
    with clients(settings) as (ledger, app):
        app.conf.task_publish_retry = False
        with refused("REDIS_CA") as caught:
            ledger.now_ms()
        assert password(settings) not in str(caught.value)
        with refused("REDIS_CA"):
            queue.send(app, "bulk", "run", "000000")


def password(settings: Settings) -> str:
    return str(urlsplit(settings.redis_url.get_secret_value()).password)


@pytest.fixture
def https(settings: Settings, own: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The storage behind a door that speaks TLS."""
    with door(settings.s3_endpoint, own) as port:
        monkeypatch.setenv("PIXELMILL_S3_ENDPOINT", f"https://127.0.0.1:{port}")
        monkeypatch.setenv("PIXELMILL_S3_CA", str(own.ca))
        yield load()


def test_a_storage_of_the_authority_that_is_named_is_used(https: Settings) -> None:
    store = Store(https)
    with closing(store._client):
        store.ensure_bucket()
        assert store.put_new("key", b"value", "text/plain")
        assert store.get("key") == b"value"


@pytest.mark.parametrize("given", ["strange", ""])
def test_a_storage_of_another_authority_is_refused(
    https: Settings, strange: Authority, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("PIXELMILL_S3_CA", str(strange.ca) if given else "")
    store = Store(load())
    with closing(store._client), refused("S3_CA"):
        store.ensure_bucket()


@pytest.mark.parametrize("name", ["REDIS_CA", "S3_CA"])
def test_a_file_without_certificates_is_an_error_that_names_the_setting(
    tls_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for path in (tmp_path / "empty.pem", tmp_path / "absent.pem"):
        monkeypatch.setenv(f"PIXELMILL_{name}", str(path))
        with pytest.raises(UsageError, match=rf"PIXELMILL_{name}.*\.pem.*expected a PEM file"):
            load()


@pytest.mark.parametrize("name", ["REDIS_CA", "S3_CA"])
def test_an_authority_for_an_address_without_tls_is_an_error(
    settings: Settings, own: Authority, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"PIXELMILL_{name}", str(own.ca))
    with pytest.raises(UsageError, match=rf"{name.lower()} is set; expected .*://, which encrypts"):
        load()
