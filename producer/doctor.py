"""`produce doctor`: asks broker, storage, models and workers, and goes on whatever one of them answers."""

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError

from producer import diagnosis, rights, session, stack
from producer.diagnosis import Finding
from shared import catalog, queue, settings
from shared.catalog import Model
from shared.errors import PixelmillError, UsageError
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import PROBE_WRITERS, Store

RACES = 4  # some storages honour a condition most of the time
BODY_BYTES = 100_000
SPAN = (70_000, 1_000)  # offset and length of the range that is read
PASSWORD = re.compile(r"://[^/]*?:(.*)@")
LOGIN = re.compile(r"//[^/@\s]*@")


def doctor(as_json: bool) -> int:
    """A line per check as it is made, or all of them as JSON at the end; the exit code."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    code = diagnosis.exit_code(findings)
    if as_json:
        print(json.dumps({"exit_code": code, "findings": [asdict(finding) for finding in findings]}))
    else:
        print(diagnosis.summary(findings))
    return code


def examine() -> Iterator[Finding]:
    """Every check there is, in order; none stops those that do not need it."""
    local = _local_stack() if session.is_local() else None
    known = settings.load()
    ledger = workers = None
    if local:
        yield local
    if not local or local.level == "ok":
        ledger = yield from _broker(known)
        yield from _storage(known)
    if ledger:
        workers = yield from _workers(known, ledger)
    yield from _models(known, workers)
    if ledger:
        yield from (_tried(known, f"lane {lane}", partial(_lane, ledger, lane)) for lane in queue.LANES)


def _local_stack() -> Finding:
    """From here on the settings lead to it, if it runs."""
    running = stack.describe(session.ROOT)
    if running is None:
        return diagnosis.judge_stack(session.ROOT, stack.missing(session.ROOT))
    os.environ.update(running.env)
    return Finding("local stack", "ok", f"broker and storage of {session.ROOT} run")


def _tried(known: Settings, check: str, look: Callable[[], Finding], advice: str = "") -> Finding:
    """What a look finds; an error of any kind is a finding too."""
    try:
        return look()
    except Exception as error:
        return Finding(check, "FAILED", _told(error, known), advice)


def _told(error: Exception, known: Settings) -> str:
    """An error's text, which others wrote, without the secrets of this configuration."""
    text = LOGIN.sub("//", str(error) or type(error).__name__)
    password = PASSWORD.search(known.redis_url.get_secret_value())
    own = [known.s3_access_key.get_secret_value(), known.s3_secret_key.get_secret_value()]
    for secret in filter(None, [password and password[1], *own]):
        text = text.replace(secret, "***")
    return text


# --- broker ---


def _broker(known: Settings) -> Generator[Finding, None, Ledger | None]:
    """The ledger, if the broker answers."""
    try:
        ledger = Ledger(known)
        ledger.now_ms()
    except PixelmillError as error:
        yield Finding("broker", "FAILED", _told(error, known))
        return None
    yield Finding("broker", "ok", f"answers at {_address(ledger)}")
    facts = _facts(ledger.redis)
    yield diagnosis.judge_version(facts.get("redis_version"), facts.get("name", ""))
    yield diagnosis.judge_persistence(facts)
    yield diagnosis.judge_policy(facts.get("maxmemory-policy"))
    yield _tried(known, "broker authentication", partial(_strangers, ledger.redis))
    yield _tried(known, "broker commands", partial(_commands, ledger.redis))
    yield _tried(known, "broker clock", partial(_clock, ledger))
    return ledger


def _address(ledger: Ledger) -> str:
    parts = ledger.redis.connection_pool.connection_kwargs
    return parts.get("path") or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}"


def _facts(client: Any) -> dict[str, str]:
    """By the names of the configuration. INFO has most: managed brokers that refuse CONFIG may still answer it."""
    info, facts = _asked(client.info) or {}, {}
    if "redis_version" in info:
        version, valkey = info["redis_version"], info.get("valkey_version")
        facts["redis_version"] = str(version)
        facts["name"] = f"Valkey {valkey}, with the commands of Redis {version}" if valkey else f"Redis {version}"
    if "aof_enabled" in info:
        facts["appendonly"] = "yes" if info["aof_enabled"] else "no"
        facts["aof_last_write_status"] = info.get("aof_last_write_status", "ok")
    if "maxmemory_policy" in info:
        facts["maxmemory-policy"] = info["maxmemory_policy"]
    for name in ("appendonly", "appendfsync", "maxmemory-policy"):
        facts |= _asked(partial(client.config_get, name)) or {}
    return facts


def _asked(question: Callable[[], Any]) -> Any | None:
    """The answer, or None where it is refused."""
    try:
        return question()
    except RedisError:
        return None


def _strangers(client: Any) -> Finding:
    return diagnosis.judge_strangers(rights.lets_strangers_in(client))


def _commands(client: Any) -> Finding:
    user = str(_asked(client.acl_whoami) or client.connection_pool.connection_kwargs.get("username") or "default")
    flush = _asked(partial(client.acl_dryrun, user, "FLUSHALL")) in ("OK", True)
    refused = rights.refused(client, rights.COMMANDS)
    return diagnosis.judge_commands(user, refused, rights.refused(client, rights.WORKER_COMMANDS), flush)


def _clock(ledger: Ledger) -> Finding:
    before_s = time.time()
    broker_s = ledger.now_ms() / 1000
    return diagnosis.judge_clock(broker_s - (before_s + time.time()) / 2)


# --- storage ---


def _storage(known: Settings) -> Iterator[Finding]:
    try:
        store = _store(known)
        bucket = diagnosis.judge_bucket(store.bucket, store.has_bucket())
    except Exception as error:  # also what the storage answers and nobody expects
        yield Finding("storage", "FAILED", _told(error, known))
        return
    yield Finding("storage", "ok", f"answers at {LOGIN.sub('//', store.endpoint) or 'AWS S3'}")
    yield bucket
    if bucket.level == "ok":
        yield from _objects(known, store)


def _store(known: Settings) -> Store:
    if not known.s3_endpoint and not os.environ.get("PIXELMILL_S3_BUCKET"):
        raise UsageError("the broker is set, the storage is not: set PIXELMILL_S3_BUCKET (and PIXELMILL_S3_ENDPOINT)")
    return Store(known)


def _objects(known: Settings, store: Store) -> Iterator[Finding]:
    """Everything that pixelmill does with an object, on one of its own."""
    key, body = f"doctor/{uuid4().hex}/object", secrets.token_bytes(BODY_BYTES)
    looks = {"write and read": _write, "range read": _range, "list": _list, "conditional put": _race, "delete": _delete}
    try:
        for name, look in looks.items():
            yield _tried(known, f"storage {name}", partial(look, store, key, body), diagnosis.RIGHTS)
    finally:
        with suppress(Exception):  # told already, by its own check
            store.delete(key)


def _write(store: Store, key: str, body: bytes) -> Finding:
    store.replace(key, body, "application/octet-stream")
    return diagnosis.judge_object("storage write and read", body, store.get(key))


def _range(store: Store, key: str, body: bytes) -> Finding:
    offset, length = SPAN
    return diagnosis.judge_object(
        "storage range read", body[offset : offset + length], store.get_range(key, offset, length)
    )


def _list(store: Store, key: str, body: bytes) -> Finding:
    folder = key.rpartition("/")[0] + "/"
    return diagnosis.judge_list([(entry.key, entry.size_bytes) for entry in store.list(folder)], (key, len(body)))


def _race(store: Store, key: str, _body: bytes) -> Finding:
    winners = [store.race(f"{key}-{number}") for number in range(RACES)]
    return diagnosis.judge_races(winners, PROBE_WRITERS)


def _delete(store: Store, key: str, _body: bytes) -> Finding:
    store.delete(key)
    return diagnosis.judge_delete(key, gone=store.get(key) is None)


# --- workers, models, lanes ---


def _workers(known: Settings, ledger: Ledger) -> Generator[Finding, None, Mapping[str, Any] | None]:
    """The live workers; None if they could not be asked for."""
    try:
        workers = ledger.workers()
    except Exception as error:
        yield Finding("workers", "FAILED", _told(error, known))
        return None
    yield from diagnosis.judge_workers(workers, session.is_local())
    return workers


def _models(known: Settings, workers: Mapping[str, Any] | None) -> Iterator[Finding]:
    try:
        models = catalog.load(known.models, known.model_folder).models
    except PixelmillError as error:
        yield Finding("models", "FAILED", _told(error, known))
        return
    for name, model in models.items():
        yield _tried(known, f"model {name}", partial(_model, model, workers))


def _model(model: Model, workers: Mapping[str, Any] | None) -> Finding:
    files = model.files() if model.is_fetched else {}
    return diagnosis.judge_model(model, catalog.identity_of(files) if files else None, workers)


def _lane(ledger: Ledger, lane: str) -> Finding:
    return diagnosis.judge_lane(lane, ledger.queued(lane), len(ledger.lane_runs(lane)))
