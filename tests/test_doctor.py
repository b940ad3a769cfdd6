"""`produce doctor`: a real broker and a real storage, well and with every fault that it knows."""

import json
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import proxy
import pytest
import redis
from fleet import wait_for, write_models

from producer import cli, diagnosis, processes, rights, services, session, stack
from producer.diagnosis import Finding
from shared import catalog
from shared.catalog import Model
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store

Doctor = Callable[[], tuple[int, dict[str, dict[str, str]]]]
WORKER: dict[str, Any] = {"device": "cuda:0", "models": ["null"], "problems": {}}
NULL = Model(name="null", family="sd15", path=Path("null"), identity="a" * 64)
PASSWORD = "correct-horse"


@pytest.fixture
def doctor(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Doctor:
    """`produce doctor --json` on a storage with a bucket; its exit code, and its findings by check."""
    monkeypatch.chdir(tmp_path)
    Store(settings).ensure_bucket()

    def run() -> tuple[int, dict[str, dict[str, str]]]:
        code = cli.main(["doctor", "--json"])
        answer = json.loads(capsys.readouterr().out)
        assert answer["exit_code"] == code
        return code, {finding["check"]: finding for finding in answer["findings"]}

    return run


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["redis.Redis"]:
    """A broker as it comes: no file, no password, and it throws away what it likes."""
    port = stack._choose_ports().redis
    options = {"port": port, "bind": services.HOST, "dir": tmp_path, "appendonly": "no", "save": ""}
    options |= {"maxmemory-policy": "allkeys-lru", "protected-mode": "no"}
    command = [services._valkey_binary(), *(part for name, value in options.items() for part in (f"--{name}", value))]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    with redis.Redis(services.HOST, port) as client:
        wait_for(lambda: answers(client), "the broker to answer")
        yield client
        client.connection_pool.disconnect()
    process.kill()
    process.wait()


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def address(client: "redis.Redis", login: str = "") -> str:
    return f"redis://{login}{services.HOST}:{client.connection_pool.connection_kwargs['port']}/0"


def levels(findings: dict[str, dict[str, str]], level: str) -> list[str]:
    return [check for check, finding in findings.items() if finding["level"] == level]


# --- a whole examination ---


def test_on_a_healthy_stack_nothing_fails_and_a_fleet_without_workers_is_a_warning(doctor: Doctor) -> None:
    code, findings = doctor()
    assert (code, levels(findings, "FAILED"), levels(findings, "warning")) == (0, [], ["workers"])
    assert "python -m workers" in findings["workers"]["advice"]
    assert findings["broker eviction"]["found"] == "maxmemory-policy is noeviction"
    assert "appendfsync everysec" in findings["broker persistence"]["found"]


def test_an_examination_leaves_nothing_behind(settings: Settings, doctor: Doctor) -> None:
    Ledger(settings).redis.set("standing", "yes")
    doctor()
    assert list(Store(settings).list("")) == []
    assert Ledger(settings).redis.keys() == ["standing"]


def test_a_careless_broker_is_named_with_every_fault_and_the_storage_is_still_checked(
    doctor: Doctor, careless: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELMILL_REDIS_URL", address(careless))
    code, findings = doctor()
    assert code == 1
    assert levels(findings, "FAILED") == ["broker persistence", "broker eviction", "broker authentication"]
    assert "appendonly yes" in findings["broker persistence"]["advice"]
    assert "allkeys-lru" in findings["broker eviction"]["found"]
    assert "requirepass" in findings["broker authentication"]["advice"]
    assert findings["storage delete"]["level"] == "ok"


def test_a_broker_that_refuses_questions_gets_warnings_and_no_crash(
    doctor: Doctor, careless: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    careless.acl_setuser("mill", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], channels=["*"], commands=WITHOUT)
    monkeypatch.setenv("PIXELMILL_REDIS_URL", address(careless, f"mill:{PASSWORD}@"))
    code, findings = doctor()
    assert code == 1  # the broker still serves strangers
    assert levels(findings, "FAILED") == ["broker authentication"]
    unknown = [check for check, finding in findings.items() if "could not be checked" in finding["found"]]
    assert unknown == ["broker version", "broker persistence", "broker eviction"] == levels(findings, "warning")[:3]
    assert "user mill may run what pixelmill needs" in findings["broker commands"]["found"]


WITHOUT = ["+@all", "-info", "-config", "-acl"]


def test_a_broker_of_which_only_config_is_refused_is_checked_all_the_same(
    doctor: Doctor, careless: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    careless.acl_setuser("mill", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all", "-config"])
    monkeypatch.setenv("PIXELMILL_REDIS_URL", address(careless, f"mill:{PASSWORD}@"))
    _, findings = doctor()
    assert levels(findings, "FAILED")[:2] == ["broker persistence", "broker eviction"]


def test_a_user_with_too_few_rights_is_told_which_are_missing(
    doctor: Doctor, careless: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = ["+@all", "-brpop", "-evalsha", "-lpush"]
    careless.acl_setuser(
        "mill", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], channels=["*"], commands=commands
    )
    monkeypatch.setenv("PIXELMILL_REDIS_URL", address(careless, f"mill:{PASSWORD}@"))
    found = doctor()[1]["broker commands"]
    assert found["level"] == "FAILED"
    assert "user mill may not EVALSHA, LPUSH (" in found["found"]


def test_a_user_without_rights_to_a_key_is_told_by_the_command_that_needs_it(
    careless: "redis.Redis",
) -> None:
    careless.acl_setuser("mill", enabled=True, nopass=True, keys=["run:*"], commands=["+@all"])
    with redis.Redis.from_url(address(careless, "mill:any@"), decode_responses=True) as client:
        assert "SADD" in rights.refused(client, rights.COMMANDS)
        assert "HINCRBY" not in rights.refused(client, rights.COMMANDS)
    assert careless.dbsize() == 0


def test_a_broker_that_does_not_answer_gives_exit_code_3_and_the_storage_is_still_checked(
    doctor: Doctor, stack_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy.before(stack_env["PIXELMILL_REDIS_URL"].replace("redis", "http", 1)) as away:
        away.go_away()
        monkeypatch.setenv("PIXELMILL_REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:{away.port}/0")
        code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (3, ["broker"])
    assert findings["storage delete"]["level"] == "ok"


def test_a_wrong_password_gives_exit_code_3(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = re.sub(":[^:]*@", f":{PASSWORD}@", settings.redis_url.get_secret_value())
    monkeypatch.setenv("PIXELMILL_REDIS_URL", wrong)
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (3, ["broker"])
    assert "PIXELMILL_REDIS_URL" in findings["broker"]["found"]


def test_a_storage_that_is_away_gives_exit_code_3_and_the_broker_is_still_checked(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy.before(settings.s3_endpoint) as away:
        away.go_away()
        monkeypatch.setenv("PIXELMILL_S3_ENDPOINT", f"http://127.0.0.1:{away.port}")
        code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (3, ["storage"])
    assert findings["broker commands"]["level"] == findings["lane bulk"]["level"] == "ok"


def test_a_missing_bucket_is_named_and_not_made(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-{secrets.token_hex(6)}"
    monkeypatch.setenv("PIXELMILL_S3_BUCKET", name)
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (1, ["storage bucket"])
    assert not Store(settings).at(name).has_bucket()


def test_a_storage_that_ignores_if_none_match_is_named(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_call", without(IfNoneMatch="*"))
    code, findings = doctor()
    found = findings["storage conditional put"]
    assert (code, found["level"]) == (0, "warning")
    assert "8 win" in found["found"]
    assert "upgrade" in found["advice"]
    assert list(Store(settings).list("")) == []


def test_a_storage_that_gives_back_something_else_is_named_and_cleaned(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "get", lambda *_: b"something else")
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (1, ["storage write and read", "storage delete"])
    assert findings["storage range read"]["level"] == "ok"
    assert list(Store(settings).list("")) == []


def test_what_nobody_expects_of_a_storage_is_a_finding_and_its_object_is_removed(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("a strange answer")

    monkeypatch.setattr(Store, "get_range", broken)
    monkeypatch.setattr("producer.doctor._delete", broken)
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (1, ["storage range read", "storage delete"])
    assert "a strange answer" in findings["storage range read"]["found"]
    assert list(Store(settings).list("")) == []


def without(**dropped: str) -> Callable[..., Any]:
    """The storage as it is, but for some words of a request, which it does not know."""
    call = Store._call

    def deaf(store: Store, method: str, **arguments: Any) -> Any:
        return call(store, method, **{n: value for n, value in arguments.items() if dropped.get(n) != value})

    return deaf


def test_live_workers_their_models_and_their_problems_are_shown(
    doctor: Doctor, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELMILL_MODELS", str(write_models(tmp_path)))
    ledger = Ledger(settings)
    ledger.announce("one@there", {"device": "cuda:0", "models": ["null", "demo-sam"]})
    ledger.announce("two@there", {"device": "cuda:1", "models": ["null"]})
    ledger.cannot_serve("two@there", "null", "its files are damaged")
    code, findings = doctor()
    assert findings["worker one@there"]["level"] == "ok"
    assert "cuda:1" in findings["worker two@there"]["found"]
    assert "its files are damaged" in findings["worker two@there"]["found"]
    assert findings["model null"]["found"].endswith("live workers that have it: 1")
    assert (code, levels(findings, "FAILED")) == (1, ["model demo-shapes", "model demo-clipseg"])


def test_files_of_another_model_are_named(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELMILL_MODELS", str(write_models(tmp_path)))
    (tmp_path / "null" / "weights").write_text("others")
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (1, ["model null"])
    assert catalog.identity(tmp_path / "null") in findings["model null"]["found"]
    assert str(tmp_path / "null") in findings["model null"]["found"]


def test_a_damaged_catalog_is_a_finding(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models.toml").write_text("default = ")
    monkeypatch.setenv("PIXELMILL_MODELS", str(tmp_path / "models.toml"))
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (1, ["models"])


def test_what_waits_in_a_lane_is_counted(doctor: Doctor, settings: Settings) -> None:
    Ledger(settings).redis.rpush("bulk", "one", "two")
    assert doctor()[1]["lane bulk"]["found"] == "open runs 0, shards waiting in the queue 2"


# --- the local stack ---


def test_a_local_stack_that_is_not_started_is_said_and_models_are_still_checked(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIXELMILL_REDIS_URL")
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (3, ["local stack"])
    assert "produce up" in findings["local stack"]["advice"]
    assert findings["model demo-sam"]["level"] == "ok"


def test_of_a_local_stack_the_one_service_that_died_is_named(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIXELMILL_REDIS_URL")
    root = tmp_path / session.ROOT
    named = {"valkey": "the broker of .pixelmill does not run, its storage does"}
    named |= {"seaweedfs": "the storage of .pixelmill does not run, its broker does"}
    try:
        for name, found in named.items():
            stack.up(root, workers=False, flower=False)
            processes.stop(stack._read_processes(root)[name])
            code, findings = doctor()
            assert (code, levels(findings, "FAILED")) == (3, ["local stack"])
            assert findings["local stack"]["found"] == found
            assert f"logs/{name}.log" in findings["local stack"]["advice"]
    finally:
        stack.down(root)


def test_a_local_stack_that_runs_is_found_without_settings(
    doctor: Doctor, stack_env: dict[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = stack.Stack({name: value for name, value in stack_env.items() if not name.endswith("BUCKET")}, "", "", "")
    monkeypatch.delenv("PIXELMILL_REDIS_URL")
    monkeypatch.setattr(stack, "describe", lambda root: running if root == session.ROOT else None)
    code, findings = doctor()
    assert (code, levels(findings, "FAILED")) == (0, [])
    assert findings["broker"]["level"] == findings["storage bucket"]["level"] == "ok"


# --- secrets ---


@pytest.mark.parametrize("fault", ["none", "wrong broker", "wrong keys", "no broker", "no address"])
def test_no_line_shows_a_secret(
    fault: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(settings).ensure_bucket()
    url, password = settings.redis_url.get_secret_value(), PASSWORD
    own = {
        "none": {},
        "wrong broker": {"REDIS_URL": re.sub(":[^:]*@", f":{password}@", url)},
        "wrong keys": {"S3_ACCESS_KEY": "the-access-key", "S3_SECRET_KEY": "the-secret-key"},
        "no broker": {
            "REDIS_URL": f"redis://me:{password}@127.0.0.1:1/0",
            "S3_ENDPOINT": "http://u:of-the-proxy@[::1]:1",
        },
        "no address": {"REDIS_URL": f"redis://:{password}/%@127.0.0.1:x/0", "S3_ENDPOINT": "storage"},
    }[fault]
    for name, value in own.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", value)
    cli.main(["doctor"])
    printed = "".join(capsys.readouterr())
    hidden = [password, "of-the-proxy", "the-secret-key", "the-access-key", url.split(":")[2].split("@")[0]]
    hidden += [settings.s3_secret_key.get_secret_value(), settings.s3_access_key.get_secret_value()]
    assert [secret for secret in hidden if secret in printed] == []
    assert printed.count("\n") > 3


def test_an_error_of_others_that_quotes_secrets_is_shown_without_them(
    doctor: Doctor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = settings.redis_url.get_secret_value(), settings.s3_secret_key.get_secret_value()
    password = url.split(":")[2].split("@")[0]

    def quoting(_: Store) -> bool:
        raise RuntimeError(f"no luck with {url}, {password} and {key}")

    monkeypatch.setattr(Store, "has_bucket", quoting)
    found = doctor()[1]["storage"]["found"]
    assert found.startswith("no luck with redis://")
    assert password not in found
    assert key not in found


# --- judgements ---


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (diagnosis.judge_version("6.2.0"), "ok"),
        (diagnosis.judge_version("7.0"), "ok"),
        (diagnosis.judge_version("10.0.1"), "ok"),
        (diagnosis.judge_version("6.0.16"), "FAILED"),
        (diagnosis.judge_version("5.10.0"), "FAILED"),
        (diagnosis.judge_version(None), "warning"),
        (diagnosis.judge_persistence({"appendonly": "yes", "appendfsync": "everysec"}), "ok"),
        (diagnosis.judge_persistence({"appendonly": "yes"}), "ok"),
        (diagnosis.judge_persistence({"appendonly": "yes", "appendfsync": "no"}), "warning"),
        (diagnosis.judge_persistence({"appendonly": "yes", "aof_last_write_status": "err"}), "FAILED"),
        (diagnosis.judge_persistence({"appendonly": "no", "appendfsync": "always"}), "FAILED"),
        (diagnosis.judge_persistence({}), "warning"),
        (diagnosis.judge_policy("noeviction"), "ok"),
        (diagnosis.judge_policy("volatile-ttl"), "FAILED"),
        (diagnosis.judge_policy(None), "warning"),
        (diagnosis.judge_strangers(False), "ok"),
        (diagnosis.judge_strangers(True), "FAILED"),
        (diagnosis.judge_strangers(None), "warning"),
        (diagnosis.judge_commands("mill", {}, {}, flush=True), "ok"),
        (diagnosis.judge_commands("mill", {}, {"BRPOP": "no permission"}, flush=False), "ok"),
        (diagnosis.judge_commands("mill", {"TIME": "no permission"}, {}, flush=False), "FAILED"),
        (diagnosis.judge_races([1, 1, 1], 8), "ok"),
        (diagnosis.judge_races([1, 2, 1], 8), "warning"),
        (diagnosis.judge_races([1, 0, 1], 8), "warning"),
        (diagnosis.judge_list([("a", 3)], ("a", 3)), "ok"),
        (diagnosis.judge_list([("a", 2)], ("a", 3)), "FAILED"),
        (diagnosis.judge_list([], ("a", 3)), "FAILED"),
        (diagnosis.judge_model(NULL, NULL.identity, None), "ok"),
        (diagnosis.judge_model(NULL, NULL.identity, {}), "ok"),
        (diagnosis.judge_model(NULL, NULL.identity, {"one": WORKER}), "ok"),
        (diagnosis.judge_model(NULL, NULL.identity, {"one": {**WORKER, "models": []}}), "FAILED"),
        (diagnosis.judge_model(NULL, "b" * 64, {"one": WORKER}), "FAILED"),
        (diagnosis.judge_model(NULL, None, {"one": WORKER}), "ok"),
        (diagnosis.judge_model(NULL, None, {"one": {**WORKER, "problems": {"null": "damaged"}}}), "FAILED"),
        (diagnosis.judge_model(NULL, None, {}), "warning"),
        (diagnosis.judge_model(NULL, None, None), "warning"),
        (diagnosis.judge_workers({}, local=True)[0], "warning"),
        (diagnosis.judge_workers({"one": WORKER}, local=True)[0], "ok"),
        (diagnosis.judge_workers({"one": {**WORKER, "models": []}}, local=True)[0], "warning"),
        (diagnosis.judge_workers({"one": {**WORKER, "problems": {"other": "damaged"}}}, local=True)[0], "warning"),
    ],
    ids=str,
)
def test_what_is_not_well_comes_with_advice(finding: Finding, level: str) -> None:
    assert finding.level == level
    assert bool(finding.advice) == (level != "ok")


@pytest.mark.parametrize(
    ("failed", "code"),
    [([], 0), (["model null"], 1), (["broker commands", "storage list"], 1), (["broker"], 3), (["x", "storage"], 3)],
)
def test_the_exit_code_says_whether_something_was_out_of_reach(failed: list[str], code: int) -> None:
    findings = [Finding("workers", "warning", "none"), *(Finding(check, "FAILED", "") for check in failed)]
    assert diagnosis.exit_code(findings) == code


def test_a_finding_is_one_line_whatever_it_holds() -> None:
    assert str(Finding("broker", "FAILED", "a\nlong\r\n tale", "do this")) == "FAILED   broker: a long tale; do this"


def test_a_clock_that_differs_is_no_fault() -> None:
    assert str(diagnosis.judge_clock(-90.04)) == "ok       broker clock: 90.0 s behind this host"
    assert diagnosis.judge_clock(0.3).found == "0.3 s ahead of this host"
