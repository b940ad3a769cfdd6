"""The local stack: broker, storage, workers and monitor in one folder, started and stopped as one."""

import json
import random
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from producer import processes, services
from producer.processes import Service, Started
from producer.services import HOST, Ports, Secrets
from shared.errors import UsageError

BUCKET = "pixelmill"
FLOWER_USER = "pixelmill"
READY_S = 60.0
RELEASE_S = 3.0  # a killed process is dead before the system has closed the sockets of its threads
LOCK_S = 300.0
PORTS = range(20_000, 22_768)  # this and GRPC_STEP above it lie below the ports of outgoing connections
CONFIG = "stack.json"
PROCESSES = "processes.json"
NEEDED = ("valkey", "seaweedfs")
RENEWED = "new ports and passwords are then chosen, and the data stays"


@dataclass(frozen=True)
class Stack:
    """A running stack, and what a client needs of it."""

    env: dict[str, str] = field(repr=False)  # PIXELMILL_* settings that lead to it
    flower_url: str  # empty: Flower does not run
    flower_user: str
    flower_password: str = field(repr=False)


def up(root: Path, *, workers: bool = True, flower: bool = True) -> Stack:
    """Starts what is missing or outdated, and returns when all of it answers."""
    processes.need_psutil()
    root = root.absolute()
    with _locked(root):
        ports, keys = _config(root)
        env = _client_env(ports, keys)
        run(root, [services.valkey(root, ports, keys), services.seaweedfs(root, ports, keys)])
        if workers:
            run(root, [services.workers(root, env)])
        if flower:
            run(root, [services.flower(root, ports.flower, f"{FLOWER_USER}:{keys.flower_password}", env)])
        return _stack(root, ports, keys)


def down(root: Path) -> list[str]:
    """Stops everything, last started first, and names what it stopped."""
    root = root.absolute()
    if not (root / PROCESSES).exists():
        return []
    processes.need_psutil()
    with _locked(root):
        started = _read_processes(root)
        stopped = [name for name in reversed(started) if processes.stop(started[name])]
        _write_processes(root, {})
        return stopped


def describe(root: Path) -> Stack | None:
    """The stack if its broker and its storage run; starts nothing."""
    root = root.absolute()
    return None if missing(root) else _stack(root, *_config(root))


def missing(root: Path) -> list[str]:
    """Which of a stack's services that nothing works without do not run."""
    if not (root / CONFIG).exists():
        return list(NEEDED)
    processes.need_psutil()
    started = _read_processes(root)
    return [name for name in NEEDED if name not in started or not processes.alive(started[name])]


def run(root: Path, wanted: Sequence[Service]) -> None:
    """Has each service running as described, in order. The caller holds the stack's lock."""
    for service in wanted:
        started = _read_processes(root)
        known = started.pop(service.name, None)
        if not known or known.fingerprint != service.fingerprint or not processes.alive(known):
            known = _start(root, service, known)
        processes.await_ready(service, known, READY_S)


def _start(root: Path, service: Service, before: Started | None) -> Started:
    mark = f"{root}:{service.name}"
    processes.stop(before or Started(0, 0.0, "", mark, service.grace_s))
    _check_free(root, service)
    known = processes.start(service, mark)
    started = _read_processes(root)
    started.pop(service.name, None)  # the order in the file is the order of the starts
    _write_processes(root, started | {service.name: known})
    return known


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    (root / "logs").mkdir(mode=0o700, exist_ok=True)
    try:
        with FileLock(root / "lock", timeout=LOCK_S, mode=0o600):
            yield
    except Timeout as error:
        raise UsageError(
            f"{root}: another command has been starting or stopping this stack for {LOCK_S:g} s"
        ) from error


def _config(root: Path) -> tuple[Ports, Secrets]:
    path = root / CONFIG
    if not path.exists():
        chosen = {"ports": asdict(_choose_ports()), "secrets": asdict(_choose_secrets())}
        services.write_private(path, json.dumps(chosen, indent=1))
    try:
        kept = json.loads(path.read_text())
        return Ports(**kept["ports"]), Secrets(**kept["secrets"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}): run `produce down`, then delete it; {RENEWED}") from error


def _choose_ports() -> Ports:
    free = [port for port in random.sample(PORTS, 200) if _free(port) and _free(port + services.GRPC_STEP)]
    return Ports(*free[: len(Ports.__dataclass_fields__)])


def _choose_secrets() -> Secrets:
    return Secrets(*(secrets.token_hex(16) for _ in Secrets.__dataclass_fields__))


def _client_env(ports: Ports, keys: Secrets) -> dict[str, str]:
    return {
        "PIXELMILL_REDIS_URL": f"redis://:{keys.redis_password}@{HOST}:{ports.redis}/0",
        "PIXELMILL_S3_ENDPOINT": f"http://{HOST}:{ports.s3}",
        "PIXELMILL_S3_BUCKET": BUCKET,
        "PIXELMILL_S3_ACCESS_KEY": keys.s3_access_key,
        "PIXELMILL_S3_SECRET_KEY": keys.s3_secret_key,
    }


def _stack(root: Path, ports: Ports, keys: Secrets) -> Stack:
    env = _client_env(ports, keys)
    monitor = _read_processes(root).get("flower")
    return Stack(
        env=env,
        flower_url=f"http://{HOST}:{ports.flower}" if monitor and processes.alive(monitor) else "",
        flower_user=FLOWER_USER,
        flower_password=keys.flower_password,
    )


def _check_free(root: Path, service: Service) -> None:
    deadline = time.monotonic() + RELEASE_S
    while (taken := [port for port in service.ports if not _free(port)]) and time.monotonic() < deadline:
        time.sleep(processes.POLL_S)
    if taken:
        # Not chosen anew by itself: other shells and running clients know these addresses.
        raise UsageError(
            f"{service.label} keeps port {taken[0]} (from {root / CONFIG}), and another program listens there: "
            f"stop that program, or run `produce down` and delete {root / CONFIG}; {RENEWED}"
        )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: without it, a port counts as taken for a minute after the connections of its last server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _read_processes(root: Path) -> dict[str, Started]:
    path = root / PROCESSES
    try:
        return {name: Started(**known) for name, known in json.loads(path.read_text()).items()} if path.exists() else {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error}): end this stack's programs by hand and delete it") from error


def _write_processes(root: Path, started: dict[str, Started]) -> None:
    plain = {name: asdict(known) for name, known in started.items()}
    services.write_private(root / PROCESSES, json.dumps(plain, indent=1))
