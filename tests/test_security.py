"""Who may do what: the broker's users, a whole run under them, and secrets that are seen nowhere."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from fleet import Fleet, wait_for, write_models
from kombu.transport import redis as transport
from redis.exceptions import NoPermissionError
from users import ROLES, USERS, Guarded, guarded

from producer import stack
from shared import keys, queue
from shared.settings import Settings, load

SHARED = USERS.parent.parent.parent / "shared"
FORBIDDEN = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET *",
    "CONFIG SET maxmemory 1",
    "KEYS *",
    "DEBUG SLEEP 0",
    "SHUTDOWN NOSAVE",
    "MONITOR",
    "ACL LIST",
    "ACL SETUSER me on nopass ~* +@all",
    "MODULE LIST",
    "FUNCTION LIST",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "CLIENT LIST",
    "CLIENT KILL ID 1",
    "SAVE",
    "BGREWRITEAOF",
    "REPLICAOF NO ONE",
    "SWAPDB 0 1",
    "MIGRATE 127.0.0.1 1 run:x 0 1",
    "RENAME run:x run:y",
    "INFO",
)
WRITES = (
    "LPUSH bulk x",
    "LPUSH interactive x",
    "RPUSH bulk x",
    "LPOP bulk",
    "BRPOP bulk 1",
    "DEL bulk",
    "HSET run:x state over",
    "HGETALL run:x",
    "DEL run:x",
    "HSET workers x y",
    "ZADD due 1 x",
    "HSET unacked x y",
    "ZADD unacked_index 1 x",
    "SADD _kombu.binding.bulk x",
    "SET lock:dispatch x",
    "PUBLISH /0.celery.pidbox x",
    "PUBLISH /0.celeryev/task.succeeded x",
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded") / "broker") as broker:
        yield broker


@pytest.fixture
def guarded_fleet(
    broker: Guarded, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    """A fleet whose worker and supervisor are the broker's user `worker`."""
    with broker.client() as admin:
        admin.flushall()
        admin.acl_log_reset()
    own = {"MODELS": write_models(tmp_path), "LEASE_S": 3, "HEARTBEAT_S": 0.5, "REDELIVER_S": 1, "THREADS": 1}
    for name, value in (own | {"REDIS_URL": broker.url("worker")}).items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(load(), tmp_path)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("command", FORBIDDEN)
def test_dangerous_commands_are_refused_to_every_user(broker: Guarded, role: str, command: str) -> None:
    with broker.client() as admin:
        assert "no permissions" in str(admin.execute_command("ACL", "DRYRUN", role, *command.split()))
    with broker.client(role) as client, pytest.raises(redis.ResponseError):  # DEBUG is off for everybody
        client.execute_command(*command.split())


@pytest.mark.parametrize("command", WRITES)
def test_the_monitor_cannot_touch_lanes_or_ledger_not_even_by_a_script(broker: Guarded, command: str) -> None:
    words = command.split()
    with broker.client("monitor") as client:
        with pytest.raises(NoPermissionError):
            client.execute_command(*words)
        with pytest.raises(redis.ResponseError, match=r"ACL failure|No permission|NOPERM|not allowed"):
            client.eval("return redis.call(" + ", ".join(f"'{word}'" for word in words) + ")", 0)


@pytest.mark.parametrize("role", ["producer", "worker"])
def test_producer_and_worker_reach_no_other_keys_of_a_shared_broker(broker: Guarded, role: str) -> None:
    with broker.client(role) as client, pytest.raises(NoPermissionError):
        client.set("somebody:else", "x")


def test_a_wrong_password_and_no_password_are_refused(broker: Guarded) -> None:
    for url in (f"redis://127.0.0.1:{broker.port}/0", f"redis://worker:guess@127.0.0.1:{broker.port}/0"):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_each_call_of_the_ledger_is_one_that_its_users_may_make(broker: Guarded) -> None:
    code = "".join((SHARED / name).read_text() for name in ("runs.py", "broker.py", "scripts.py"))
    called = re.findall(r"redis\.call\('([A-Z]+)'", code) + re.findall(r"_call\(\s*\"([a-z]+)\"", code)
    called += re.findall(r"\(\"([a-z]+)\", keys\.", code)
    assert len(called) > 50
    allowed = {role: set(re.findall(r" \+([a-z]+)", line(role))) for role in ("producer", "worker")}
    for command in {name.lower() for name in called}:
        for role, commands in allowed.items():
            assert command in commands, f"{USERS.name}: {role} needs +{command}"


def test_each_key_of_the_ledger_is_one_that_its_users_reach(broker: Guarded) -> None:
    ledger = (SHARED / "keys.py").read_text().partition("# --- Redis")[2]
    names = [getattr(keys, name) for name in re.findall(r"^([A-Z_]+) = ", ledger, re.MULTILINE)]
    for name, arguments in re.findall(r"^def (\w+)\(([^)]*)\)", ledger, re.MULTILINE):
        if name != "member":  # of a key
            names.append(getattr(keys, name)(*["x"] * len(arguments.split(","))))
    assert len(names) >= 8
    with broker.client() as admin:
        for name in [*names, *queue.LANES]:
            for role in ("producer", "worker"):
                answer = admin.execute_command("ACL", "DRYRUN", role, "GET", name)
                assert answer in ("OK", b"OK"), f"{USERS.name}: {role} needs ~{name}"


@pytest.mark.parametrize("role", ROLES)
def test_each_user_can_clear_away_what_a_monitor_that_is_gone_left(broker: Guarded, role: str) -> None:
    with broker.client() as admin, broker.client(role) as client:
        admin.zadd("_kombu.binding_deadlines", {"celeryev": 1})
        admin.sadd("_kombu.binding.celeryev", "gone")
        beginnings = (transport.Channel.keyprefix_queue % "", transport.Channel.keyprefix_binding_permanent % "")
        assert client.eval(transport.SWEEP_BINDINGS, 1, "_kombu.binding_deadlines", *beginnings, 10) == 1
        assert not admin.exists("_kombu.binding.celeryev")


def line(role: str) -> str:
    (found,) = [line for line in USERS.read_text().splitlines() if line.startswith(f"user {role} ")]
    return found


def test_a_whole_run_needs_no_more_than_its_users_may_and_shows_no_secret(
    broker: Guarded, guarded_fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = guarded_fleet
    (tmp_path / "prompts.csv").write_text("prompt\n" + "".join(f"picture {i}\n" for i in range(12)) + "fail\n")
    with flower(broker, tmp_path) as get, fleet.worker():
        assert produce(broker, "--csv", str(tmp_path / "prompts.csv"), "--run", "whole") == 1  # one row fails
        assert produce(broker, "--csv", str(tmp_path / "prompts.csv"), "--run", "whole") == 1  # goes out again
        for command in (["status", "whole"], ["runs"], ["watch", "whole", "--json"]):
            assert produce(broker, *command) in (0, 1)
        wait_for(lambda: b"cpu-0@test" in get("/workers") and b"whole shard" in get("/api/tasks"), "Flower's news")
        pages = [get(path) for path in PAGES]
        commands = command_lines()
        objects = [fleet.store.get(entry.key) or b"" for entry in fleet.store.list("")]
        metadata = [str(fleet.store.head(entry.key)) for entry in fleet.store.list("")]
        held = dump(broker)
        assert produce(broker, "rm", "whole", "--yes") == 0
    with broker.client() as admin:
        assert [entry for entry in admin.acl_log() if entry["username"] != "default"] == []
    assert len(objects) > 12 and len(held) > 3 and any("celery" in line for line in commands)
    logs = "".join(capfd.readouterr()) + "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "succeeded" in logs and "Visit me" in logs
    places = {
        "command lines": "\n".join(commands),
        "logs and messages": logs,
        "objects": b"\n".join(objects).decode("latin-1"),
        "metadata of objects": "\n".join(metadata),
        "broker": "\n".join(held),
        "pages of Flower": b"\n".join(pages).decode("latin-1"),
    }
    found = [
        (place, name) for place, text in places.items() for name, secret in known(broker).items() if secret in text
    ]
    assert found == []


PAGES = ("/workers", "/worker/cpu-0@test", "/tasks", "/broker", "/api/workers?refresh=1", "/api/tasks", "/metrics")
FLOWER = "someone:flowerpassword7c1f"


def known(broker: Guarded) -> dict[str, str]:
    """Every secret that a process of the run held. The access key is a name: presigned addresses show it."""
    secrets = {f"password of {role}": password for role, password in broker.passwords.items()}
    secrets["secret key of the storage"] = load().s3_secret_key.get_secret_value()
    secrets["password of Flower"] = FLOWER.partition(":")[2]
    assert all(len(secret) > 12 for secret in secrets.values())
    return secrets


def produce(broker: Guarded, *words: str) -> int:
    environment = os.environ | {"PIXELMILL_REDIS_URL": broker.url("producer")}
    return subprocess.run([sys.executable, "-m", "producer.cli", *words], env=environment, check=False).returncode


@contextmanager
def flower(broker: Guarded, folder: Path, **settings: str) -> Iterator["Get"]:
    """Flower as the user `monitor`; the value asks it for a page."""
    ports = stack._choose_ports()
    own = {"PIXELMILL_REDIS_URL": broker.url("monitor"), "FLOWER_BASIC_AUTH": FLOWER} | settings
    options = ["--address=127.0.0.1", f"--port={ports.flower}", "--read_only=True"]
    command = [sys.executable, "-m", "celery", "-A", "shared.monitor:app", "flower", *options]
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    get = Get(ports.flower)
    try:
        wait_for(get.answers, "Flower")
        yield get
    finally:
        process.terminate()
        process.wait()


class Get:
    """Asks Flower for a page."""

    def __init__(self, port: int):
        self.port = port

    def __call__(self, path: str, login: str = FLOWER) -> bytes:
        header = {"Authorization": "Basic " + b64encode(login.encode()).decode()} if login else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=header)
        try:
            with urllib.request.urlopen(request) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} ".encode() + error.read()

    def answers(self) -> bool:
        try:
            return self("/healthcheck", login="") == b"OK"
        except OSError:
            return False


def command_lines() -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            time.sleep(0)
    return found


def dump(broker: Guarded) -> list[str]:
    """All keys and values, in the broker's own form."""
    with redis.Redis.from_url(broker.url("default")) as admin:
        return [f"{key!r} {admin.dump(key)!r}" for key in admin.scan_iter()]


def test_flower_gives_metrics_to_those_who_know_its_password_and_its_health_to_all(
    broker: Guarded, settings: Settings, tmp_path: Path
) -> None:
    with flower(broker, tmp_path) as get:
        for path in ("/metrics", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
            assert get(path, login="").startswith(b"401"), path
            assert get(path, login="someone:guess").startswith(b"401"), path
        assert b"# HELP" in get("/metrics")
        assert get("/healthcheck", login="") == b"OK"
