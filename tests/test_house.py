"""Who knows whom, and what is in the package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOCKETLESS = """
import socket, sys
def refuse(*_, **__): raise AssertionError("a socket was opened")
socket.socket.connect = refuse
import {module}
heavy = {{"torch", "diffusers", "transformers", "boto3" if {light} else "torch"}} & set(sys.modules)
assert not heavy, heavy
"""


def run_alone(module: str, light: bool) -> None:
    code = SOCKETLESS.format(module=module, light=light)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_line_imports_neither_torch_nor_boto3_and_opens_no_socket() -> None:
    run_alone("producer.cli", light=True)


def test_producer_and_shared_live_without_torch() -> None:
    run_alone("producer.produce, producer.listing, producer.download, shared.finish", light=False)


def test_the_process_that_receives_tasks_lives_without_torch() -> None:
    run_alone("workers.app, workers.tasks, workers.supervisor", light=False)


def test_the_wheel_holds_exactly_the_three_packages_and_their_data(tmp_path: Path) -> None:
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    config = tmp_path / "extra.cfg"  # away from build/, where files of earlier builds would come along
    config.write_text(f"[build]\nbuild_base = {tmp_path}/build\n")
    environment = os.environ | {"DIST_EXTRA_CONFIG": str(config)}
    command = [sys.executable, "-W", "ignore", "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"producer", "shared", "workers"}
    assert {"shared/models.toml", "shared/sheet.html", "workers/demo/txt2img.toml"} <= set(names)
    assert any(name.startswith("workers/demo/weights/demo-shapes/unet/") for name in names)
    assert "workers/architectures/sdxl/unet/config.json" in names


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    for path in ROOT.glob("*/**/__init__.py"):
        if path.parts[len(ROOT.parts)] in ("producer", "shared", "workers"):
            lines = [line for line in path.read_text().splitlines() if line]
            assert len(lines) == 1, path
            assert lines[0].startswith('"""'), path
