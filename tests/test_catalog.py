"""models.toml and settings: what is refused before anything runs."""

from pathlib import Path

import pytest

from shared import catalog, settings
from shared.errors import ModelError, UsageError

ENTRY = f'[models.own]\nfamily = "sd15"\npath = "own"\nidentity = "{"a" * 64}"\n'


def overlay(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_textual_inversions_that_are_one_word_are_refused(tmp_path):
    entry = 'family = "embedding"\npath = "x.pt"\nidentity = "' + "a" * 64 + '"\n'
    (tmp_path / "models.toml").write_text(f"[models.Easy]\n{entry}[models.easy]\n{entry}")
    with pytest.raises(ModelError, match="'Easy' and 'easy' are one word"):
        catalog.load(tmp_path / "models.toml")


def test_an_overlay_adds_models_beside_its_file_and_may_name_another_default(tmp_path: Path) -> None:
    known = catalog.load(overlay(tmp_path, f'default = "own"\n{ENTRY}'))
    assert known.defaults["model"] == "own"
    assert known.models["own"].path == tmp_path / "own"
    assert "demo-shapes" in known.models


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('default = "nope"', "default is 'nope'; expected one of demo-shapes"),
        ("not toml", "cannot be read as TOML"),
        (ENTRY.replace("sd15", "sd99"), r"\[models.own\]"),
        (ENTRY + "colour = 1", "colour"),
        (ENTRY + '[models.own.defaults]\nscheduler = "nonsense"', "found 'nonsense'; expected one of"),
        (ENTRY + "[models.own.defaults]\nwidth = 100", "found 100; expected a multiple of 8"),
        (ENTRY + "[models.own.defaults]\nheight = 4096", "from 64 to 1024"),
    ],
)
def test_a_bad_catalog_is_refused_with_file_entry_and_reason(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        catalog.load(overlay(tmp_path, text))
    assert "models.toml" in str(caught.value)


def test_identity_depends_on_names_and_bytes_and_not_on_the_place(tmp_path: Path) -> None:
    for name in ("one", "two", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "weights").write_text("w")
        (tmp_path / name / "deep.json").write_text("{}")
    (tmp_path / "other" / "deep.json").write_text("{ }")
    found = [catalog.identity(tmp_path / name) for name in ("one", "two", "other")]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BATCH_IMAGES", "many", "PIXELMILL_BATCH_IMAGES: found 'many'"),
        ("SHARD_ROWS", "0", "PIXELMILL_SHARD_ROWS: found '0'"),
        ("HEARTBEAT_S", "50", "at most half of lease_s"),
    ],
)
def test_a_bad_setting_is_named_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("PIXELMILL_S3_SECRET_KEY", "hidden")
    monkeypatch.setenv(f"PIXELMILL_{name}", value)
    with pytest.raises(UsageError, match=words) as caught:
        settings.load()
    assert "hidden" not in str(caught.value)
