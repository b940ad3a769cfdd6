"""Valkey with the users of deploy/redis/users.acl, started by the very script of docker-compose.yml."""

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import yaml
from fleet import wait_for

from producer import services

REPOSITORY = Path(__file__).parent.parent.parent
USERS = REPOSITORY / "deploy" / "redis" / "users.acl"
ROLES = ("producer", "worker", "monitor")
# In the place of the image's entry point: Valkey with what it is given, on a port of the test's own.
ENTRY = '#!/bin/sh\n{ cat; printf "bind 127.0.0.1\\nport %s\\nset-proc-title no\\n" "$PORT"; } | "$VALKEY" -\n'


@dataclass(frozen=True)
class Guarded:
    """A broker that tells its users apart. `passwords`: by role; the administrator is `default`."""

    port: int
    passwords: dict[str, str]

    def url(self, role: str) -> str:
        return f"redis://{role}:{self.passwords[role]}@127.0.0.1:{self.port}/0"

    def client(self, role: str = "default") -> "redis.Redis":
        return redis.Redis.from_url(self.url(role), decode_responses=True)


@contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    broker = Guarded(port, {role: f"{role}{secrets.token_hex(12)}" for role in ("default", *ROLES)})
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", script()], cwd=folder, env=_environment(folder, broker), stdout=log, start_new_session=True
        )
    try:
        wait_for(lambda: _answers(broker), "the broker with users")
        yield broker
    finally:
        with broker.client() as admin:
            admin.shutdown(nosave=True)
        process.wait()


def script() -> str:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    text: str = compose["services"]["redis"]["command"][-1]
    return text.replace("$$", "$").replace("/etc/pixelmill/users.acl", f"'{USERS}'")


def _environment(folder: Path, broker: Guarded) -> dict[str, str]:
    entry = folder / "docker-entrypoint.sh"
    entry.write_text(ENTRY)
    entry.chmod(0o700)
    own = {f"REDIS_{role.upper()}_PASSWORD": broker.passwords[role] for role in ROLES}
    own |= {"REDIS_PASSWORD": broker.passwords["default"], "PORT": str(broker.port)}
    return {"PATH": f"{folder}:{os.environ['PATH']}", "VALKEY": services._valkey_binary(), **own}


def _answers(broker: Guarded) -> bool:
    try:
        with broker.client() as admin:
            return bool(admin.ping())
    except redis.RedisError:
        return False
