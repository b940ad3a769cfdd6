"""What the documentation says and a program can check. Run by itself, it writes the help texts into their page."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pydantic import SecretStr

from producer import cli
from shared.settings import Settings

ROOT = Path(__file__).parent.parent
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HELP = re.compile(r"<!-- help: produce ?([a-z ]*) -->\n```text\n(.*?)```", re.DOTALL)
WIDTH = "100"


def help_text(command: str) -> str:
    """What `produce COMMAND --help` prints, at a fixed width and without colors."""
    text = io.StringIO()
    fixed = {"COLUMNS": WIDTH, "NO_COLOR": "1"}
    with mock.patch.dict(os.environ, fixed), contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    return text.getvalue()


def commands() -> list[str]:
    """The empty string for the program itself, and the names of its commands."""
    return ["", *_choices(), *(f"{group} {name}" for group in ("dead", "models") for name in _choices(group))]


def _choices(*command: str) -> list[str]:
    (line,) = re.findall(r"choose from (.*)\)", _complaint(*command))
    return re.findall(r"[a-z]+", line)


def _complaint(*command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.suppress(SystemExit):
        cli.main([*command, "no-such-command"])
    return " ".join(text.getvalue().split())


def words(text: str) -> list[str]:
    """Python's versions break the lines of a help text at different places."""
    return text.split()


def shown(default: Any) -> str:
    """A default as the page of settings writes it."""
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    return "empty" if value in ("", None) else f"`{value}`"


def test_the_page_of_commands_holds_the_help_of_every_command() -> None:
    found = dict(HELP.findall(COMMANDS.read_text(encoding="utf-8")))
    assert sorted(found) == sorted(commands())
    for command, text in found.items():
        assert words(text) == words(help_text(command)), f"run `python tests/test_docs.py`: {command or 'produce'}"


def test_every_setting_stands_in_the_reference_with_its_default() -> None:
    lines = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `PIXELMILL_")]
    assert len(rows) == len(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        start = f"| `PIXELMILL_{name.upper()}` | {shown(field.default)} | "
        assert any(row.startswith(start) for row in rows), f"expected a row that begins with {start}"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_relative_links_lead_to_files_that_exist(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    files = {link.partition("#")[0] for link in links if "://" not in link}
    assert [file for file in sorted(files) if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_to_a_heading_lead_to_one_that_exists(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    for file, _, anchor in (link.partition("#") for link in links if "://" not in link and "#" in link):
        target = page.parent / file if file else page
        assert anchor in anchors(target), f"{target.name} has no heading #{anchor}"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert [page for page in PAGES if index.parent in page.parents and page != index and page not in linked] == []


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def write_help() -> None:
    """Put the help texts into the page of commands."""
    text = COMMANDS.read_text(encoding="utf-8")

    def block(found: re.Match[str]) -> str:
        name = f"produce {found[1]}".strip()
        return f"<!-- help: {name} -->\n```text\n{help_text(found[1])}```"

    COMMANDS.write_text(HELP.sub(block, text), encoding="utf-8")


if __name__ == "__main__":
    write_help()
