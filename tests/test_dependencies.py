"""What the lock file promises about everything that is installed."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parent.parent / "requirements.lock"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)\s*(?:;([^\\\n]+))?", re.MULTILINE)
# Programs under these may not be shipped inside others that are not; a library of them would bind every user.
BINDING = re.compile(r"\b(A?GPL|SSPL|BUSL|GNU (Affero )?General Public)", re.IGNORECASE)


def locked() -> dict[str, str]:
    """Name and version of everything that the lock file wants on this machine."""
    pins = PIN.findall(LOCK.read_text())
    return {canonicalize_name(name): version for name, version, only in pins if not only or Marker(only).evaluate()}


def test_what_is_installed_is_what_the_lock_names() -> None:
    installed = {canonicalize_name(known.metadata["Name"]): known.version for known in metadata.distributions()}
    wanted = locked()
    assert len(wanted) > 50
    assert {name: installed.get(name) for name in wanted} == wanted


def test_installed_packages_fit_each_other() -> None:
    command = [sys.executable, "-m", "uv", "pip", "check", "--python", sys.executable]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_lock_names_no_address_and_every_pin_has_a_hash() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert [block.splitlines()[0] for block in blocks if "==" in block and "--hash=sha256:" not in block] == []


def test_no_licence_binds_whoever_uses_the_product() -> None:
    assert {
        name: found for name in locked() if (found := [text for text in licences(name) if BINDING.search(text)])
    } == {}


def licences(name: str) -> list[str]:
    """All that a package says of its licence; of a licence's own text, the title."""
    known = metadata.metadata(name)
    said = [known.get("License-Expression") or "", *(known.get_all("Classifier") or [])]
    return said + (known.get("License") or "").splitlines()[:1]
