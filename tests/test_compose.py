"""docker-compose.yml without an engine: what can be wrong in it and be seen by reading it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.settings import Settings

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (REPOSITORY / ".env.example").read_text()
# ${NAME}, ${NAME:-default} or ${NAME:?message}; $$ is a dollar sign for the container.
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?][^}]*)?\}")
PINNED = re.compile(r"[\w./-]+:(RELEASE\.[\dTZ-]+|\d+\.\d+[\w.-]*)")
KNOWN_KEYS = {"image", "build", "command", "entrypoint", "environment", "depends_on", "volumes", "ports", "restart"}
KNOWN_KEYS |= {"healthcheck", "profiles", "deploy", "init", "user", "working_dir", "stop_grace_period"}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param]


def test_its_parts_are_what_the_documentation_promises() -> None:
    workers = {"worker-gpu0", "worker-gpu1", "worker-cpu"}
    assert set(SERVICES) == {"redis", "minio", "bucket", "flower", "producer"} | workers
    assert {name for name in SERVICES if not SERVICES[name].get("profiles")} == {"redis", "minio", "bucket", "flower"}


def test_every_key_of_a_service_is_one_that_compose_knows(service: dict[str, Any]) -> None:
    assert set(service) - KNOWN_KEYS == set()


def test_every_image_is_pinned(service: dict[str, Any]) -> None:
    assert PINNED.fullmatch(service["image"])


def test_every_service_is_checked_or_runs_once(service: dict[str, Any]) -> None:
    if service["restart"] == "no":
        assert "healthcheck" not in service
    else:
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_ports_are_published_on_the_loopback_only(service: dict[str, Any]) -> None:
    assert [port for port in service.get("ports", []) if not str(port).startswith("127.0.0.1:")] == []


def test_volumes_are_named_or_chosen_by_the_user(service: dict[str, Any]) -> None:
    for volume in service.get("volumes", []):
        source = VARIABLE.sub("chosen", volume).split(":")[0]
        own = source.startswith("./deploy/") and volume.endswith(":ro") and (REPOSITORY / source).is_file()
        assert source == "chosen" or source in COMPOSE["volumes"] or own


def test_services_wait_for_services_that_exist_and_for_the_right_state(service: dict[str, Any]) -> None:
    for name, wait in service.get("depends_on", {}).items():
        finished = SERVICES[name]["restart"] == "no"
        assert wait["condition"] == ("service_completed_successfully" if finished else "service_healthy")


def test_settings_are_those_that_the_code_reads(service: dict[str, Any]) -> None:
    named = {name for name in service.get("environment", {}) if name.startswith("PIXELMILL_")}
    assert named <= {f"PIXELMILL_{field.upper()}" for field in Settings.model_fields}


def test_images_of_this_project_are_built_from_targets_that_exist(service: dict[str, Any]) -> None:
    if service["image"].startswith("pixelmill-"):
        dockerfile = (REPOSITORY / service["build"]["dockerfile"]).read_text()
        assert f" AS {service['build']['target']}\n" in dockerfile


def test_every_variable_is_in_the_example_and_the_example_has_no_other() -> None:
    offered = set(re.findall(r"^#?([A-Z]\w*)=", EXAMPLE, re.MULTILINE))
    passed_on = {
        name for service in SERVICES.values() for name, value in service["environment"].items() if value is None
    }
    assert {name for name, _ in VARIABLE.findall(TEXT)} | passed_on == offered


def test_secrets_have_no_default_anywhere() -> None:
    secrets = {f"REDIS_{user}PASSWORD" for user in ("", "PRODUCER_", "WORKER_", "MONITOR_")}
    secrets |= {"PIXELMILL_S3_ACCESS_KEY", "PIXELMILL_S3_SECRET_KEY", "FLOWER_PASSWORD"}
    used = [(name, rest) for name, rest in VARIABLE.findall(TEXT) if name in secrets]
    assert {name for name, _ in used} == secrets
    assert {rest for _, rest in used} == {":?set in .env"}
    for name in secrets:
        assert f"\n{name}=\n" in EXAMPLE


def test_each_gpu_service_reserves_one_gpu_of_its_own() -> None:
    reserved = []
    for name in ("worker-gpu0", "worker-gpu1"):
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        reserved += device["device_ids"]
    assert reserved == ["${GPU_0:-0}", "${GPU_1:-1}"]
    assert "deploy" not in SERVICES["worker-cpu"]


def test_redis_keeps_a_log_evicts_nothing_and_hides_its_password() -> None:
    script = SERVICES["redis"]["command"][-1]
    lines = {"$$users", "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"}
    assert lines <= set(script.splitlines())
    assert "exec docker-entrypoint.sh redis-server - <<EOF" in script.splitlines()


def test_each_service_has_its_own_user_of_redis_and_flower_no_keys_of_the_storage() -> None:
    users = {"producer": "producer", "flower": "monitor"} | {name: "worker" for name in SERVICES if "worker-" in name}
    for name, user in users.items():
        url = f"redis://{user}:${{REDIS_{user.upper()}_PASSWORD:?set in .env}}@redis:6379/0"
        assert SERVICES[name]["environment"]["PIXELMILL_REDIS_URL"] == url
    assert "PIXELMILL_S3_SECRET_KEY" not in SERVICES["flower"]["environment"]


def test_flower_asks_for_a_password_and_only_reads() -> None:
    assert "--read_only=True" in SERVICES["flower"]["command"]
    assert SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("pixelmill:")


def test_images_install_locked_versions_with_hashes_and_the_producer_has_no_torch() -> None:
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    whole = pins(REPOSITORY / "requirements.lock")
    producer = pins(REPOSITORY / "deploy" / "requirements-producer.lock")
    worker = pins(REPOSITORY / "deploy" / "requirements-worker.lock")

    assert dockerfile.count("pip install --require-hashes -r") == 2
    assert producer <= whole
    assert worker <= whole
    assert not {name for name, _ in producer} & {"torch", "torchvision", "diffusers", "transformers"}
    assert {"torch", "celery"} <= {name for name, _ in worker}
    assert {"flower", "celery"} <= {name for name, _ in producer}


def test_the_dockerfile_copies_only_what_dockerignore_lets_through() -> None:
    allowed = {
        line[1:].rstrip("/") for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (REPOSITORY / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (REPOSITORY / source).exists()
        assert source in allowed or (source.startswith("deploy/") and source.endswith(".lock"))


def pins(lock: Path) -> set[tuple[str, str]]:
    """Names and versions; every pin must carry a hash."""
    text = lock.read_text()
    blocks = re.findall(r"^([a-z0-9][\w.-]*)==(\S+)(.*(?:\n +.*)*)", text, re.MULTILINE)
    assert all("--hash=sha256:" in rest for _, _, rest in blocks)
    return {(name, version) for name, version, _ in blocks}
