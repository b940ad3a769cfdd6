"""`produce` as a user types it: exit codes, what it prints, what it leaves behind."""

import csv
import json
from pathlib import Path

import pytest
from fleet import Fleet

from producer import cli, header
from producer.follow import Eta, duration
from shared import keys

FAULTY = (
    b"prompt,steps,width,height,seed,scheduler,filename,model,n,format\n"
    b"fine,,,,,,,,,\n"
    b",,,,,,,,,\n"  # no prompt
    b"a,abc,,,,,,,,\n"
    b"a,0,,,,,,,,\n"
    b"a,-3,,,,,,,,\n"
    b"a,1e3,,,,,,,,\n"
    b"a,,0,,,,,,,\n"
    b"a,,65,,,,,,,\n"
    b"a,,100000,,,,,,,\n"
    b"a,,,abc,,,,,,\n"
    b"a,,,65,,,,,,\n"
    b"a,,,,abc,,,,,\n"
    b"a,,,,-2,,,,,\n"
    b"a,,,,4294967296,,,,,\n"
    b"a,,,,,eulr,,,,\n"
    b"a,,,,,dpm fast,,,,\n"
    b"a,,,,,,../up,,,\n"
    b"a,,,,,,/etc/passwd,,,\n"
    b"a,,,,,,a b,,,\n"
    b"a,,,,,,cat.jpg,,,\n"
    b"a,,,,,,twice,,,\n"
    b"a,,,,,,twice,,,\n"
    b"a,,,,,,,nul,,\n"
    b"a,,,,,,,,0,\n"
    b"a,,,,,,,,65,\n"
    b"a,,,,,,,,,gif\n"
    b"caf\xe9,,,,,,,,,\n"
    b"a\0b,,,,,,,,,\n"
    b"a\x07b,,,,,,,,,\n" + b"a" * 1_000_000 + b",,,,,,,,,\n"
    b"a,,\n"  # too few cells
    b"a,,,,,,,,,,,\n"  # too many
    b'a,"20,,,,,,,,\n'  # never closed
    b"fine too,,,,,,,,,\n"
)
FIRST_OF_TWICE = 22  # the line of the only planted row that is good: its name is taken a line later
PLANTED = [line for line in range(3, 35) if line != FIRST_OF_TWICE]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.csv"
    path.write_bytes(FAULTY)
    return path


def test_more_than_thirty_faults_are_each_named_once_and_nothing_is_submitted(
    fleet: Fleet, faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(PLANTED) == 31
    assert cli.main(["--csv", str(faulty)]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert [int(line.split(":")[1]) for line in printed[:-1]] == PLANTED
    assert all(line.startswith("faulty.csv:") and "expected" in line for line in printed[:-1])
    assert printed[-1].startswith("produce: nothing was submitted: 31 faults in the file")
    assert list(fleet.store.list("runs/")) == []
    assert list(fleet.ledger.redis.scan_iter("run:*")) == []


def test_skip_bad_makes_the_good_rows_and_failed_csv_corrected_can_be_produced(
    fleet: Fleet, faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet.worker():
        code = cli.main(
            ["--csv", str(faulty), "--skip-bad", "--run", "some", "--json", "--download", str(tmp_path / "d")]
        )
        assert code == 1  # rows were left out
        counts = json.loads(capsys.readouterr().out)["counts"]
        assert counts == {"rows": 34, "done": 3, "failed": 0, "dead": 0, "canceled": 0, "skipped": 31, "images": 3}
        corrected = tmp_path / "corrected.csv"
        with (tmp_path / "d" / "failed.csv").open(newline="") as file:
            failed = list(csv.DictReader(file))
        assert len(failed) == 31
        assert all(row["error_type"] == "BadRow" and row["error"] for row in failed)
        with corrected.open("w", newline="") as file:
            writer = csv.DictWriter(file, failed[0].keys())
            writer.writeheader()
            writer.writerows(dict.fromkeys(row, "") | {"prompt": "mended", "error": row["error"]} for row in failed)
        assert cli.main(["--csv", str(corrected), "--run", "mended", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["counts"]["done"] == 31


def test_a_run_is_listed_looked_at_watched_downloaded_and_removed(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "three.csv").write_text("prompt,filename\na,first\nb,\nfail,\n")
    folder = tmp_path / "here"
    with fleet.worker():
        assert cli.main(["--csv", str(tmp_path / "three.csv"), "--run", "three", "--no-wait"]) == 0
        assert "run three: 3 rows, 3 images" in capsys.readouterr().out
        assert cli.main(["watch", "three"]) == 1
        assert "2 of 3 rows done" in capsys.readouterr().out
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["three", "over", "3", "2", "1", "0", "0", "0", "2"]
    assert cli.main(["status", "three", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    assert cli.main(["download", "three", str(folder)]) == 0
    assert (folder / "images" / "first.png").exists()
    assert 'href="images/first.png"' in (folder / "index.html").read_text()
    assert cli.main(["download", "three", str(folder)]) == 0
    assert "0 pictures fetched, 2 were there already" in capsys.readouterr().out
    (folder / "images" / "first.png").write_bytes(b"broken")
    assert cli.main(["download", "three", str(folder)]) == 0
    assert "1 pictures fetched" in capsys.readouterr().out
    assert cli.main(["rm", "three"]) == 2  # no terminal to ask on
    assert cli.main(["rm", "three", "--yes"]) == 0
    assert list(fleet.store.list(keys.prefix("three"))) == []
    assert cli.main(["status", "three"]) == 2


def test_a_folder_that_holds_another_run_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    with fleet.worker():
        for name in ("one", "two"):
            fleet.finish(fleet.submit(f"prompt\n{name}\n", run=name).run)
    assert cli.main(["download", "one", str(tmp_path / "d")]) == 0
    assert cli.main(["download", "two", str(tmp_path / "d")]) == 2


def test_dry_run_says_what_it_would_make_and_submits_nothing(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text("prompt,n\na,2\nb,3\n")
    assert cli.main(["--csv", str(tmp_path / "p.csv"), "--dry-run", "--json"]) == 0
    plan = {"rows": 2, "good": 2, "skipped": 0, "images": 5, "kinds": {"txt2img": 2}}
    assert json.loads(capsys.readouterr().out) == plan
    assert list(fleet.store.list("runs/")) == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["--csv", "nowhere.csv"], ["--csv", ".", "--run", "x"], ["watch", "nowhere"]],
)
def test_bad_usage_ends_with_2(fleet: Fleet, arguments: list[str]) -> None:
    assert cli.main(arguments) == 2


def test_a_broker_that_does_not_answer_ends_with_3_and_says_what_to_check(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXELMILL_REDIS_URL", "redis://:secret@127.0.0.1:9/0")
    assert cli.main(["runs"]) == 3
    printed = capsys.readouterr().err
    assert "PIXELMILL_REDIS_URL" in printed
    assert "secret" not in printed


def test_a_storage_that_does_not_answer_ends_with_3(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELMILL_S3_ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(["runs"]) == 3


def test_the_time_left_comes_from_the_last_minute() -> None:
    now = iter([0.0, 10.0, 20.0])
    eta = Eta(clock=lambda: next(now))
    assert [eta.update(done, 100 - done) for done in (0, 10, 20)] == ["", "about 1m 30s left", "about 1m 20s left"]
    assert [duration(s) for s in (5, 65, 3700)] == ["5s", "1m 05s", "1h 01m"]


@pytest.mark.parametrize("name", ["x/", "../x", ".hidden", "a b", "x" * 65, ""])
@pytest.mark.parametrize("command", [["status"], ["watch"], ["rm", "--yes"], ["--csv", "x.csv", "--run"]])
def test_a_name_that_no_run_can_have_is_refused_by_every_command(command: list[str], name: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, name])
    assert caught.value.code == 2
    assert "expected 1 to 64 of" in capsys.readouterr().err


def test_a_download_writes_over_nobody_s_files(fleet: Fleet, tmp_path: Path, capsys) -> None:
    own = tmp_path / "mine" / "failed.csv"
    own.parent.mkdir()
    own.write_text("mine")
    (tmp_path / "a.csv").write_text("prompt\na star\n")
    assert cli.main(["--csv", str(tmp_path / "a.csv"), "--download", str(own.parent)]) == 2
    assert "holds other files; choose a new folder" in capsys.readouterr().err
    assert [path.name for path in own.parent.iterdir()] == ["failed.csv"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"run": "first", "hash": "0", "file": "first.csv"}))
    assert cli.main(["--csv", str(tmp_path / "a.csv"), "--download", str(other)]) == 2
    assert "holds run first (first.csv)" in capsys.readouterr().err
    assert list(fleet.store.folders("runs/")) == []  # found out before anything was sent


def test_a_dry_run_that_would_leave_rows_out_says_so_by_its_exit_code(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,steps\na star,20\na heart,many\n")
    assert cli.main(["--csv", str(path), "--dry-run", "--skip-bad"]) == 1
    assert "1 would be left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PIXELMILL_REDIS_URL", "redis://:pa/ss@h", "expected redis://"),
        ("PIXELMILL_S3_ENDPOINT", "localhost:9000", "expected an address such as http://"),
        ("PIXELMILL_LEASE_S", "inf", "PIXELMILL_LEASE_S"),
    ],
)
def test_a_setting_that_cannot_be_is_named_and_no_password_shown(
    fleet: Fleet, monkeypatch, capsys, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["runs"]) == 2
    printed = capsys.readouterr().err
    assert name in printed
    assert words in printed
    assert "pa/" not in printed


def test_a_file_whose_name_is_no_utf_8_becomes_a_run(fleet: Fleet) -> None:
    with fleet.worker():
        run = fleet.submit("prompt\na star\n", name="caf\udce9.csv").run
        assert fleet.finish(run)["done"] == 1


def test_a_header_of_many_unknown_columns_is_not_searched_name_by_name(tmp_path: Path, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("producer.header.did_you_mean", lambda name, _: asked.append(name) or "")
    path = tmp_path / "wide.csv"
    path.write_text(",".join(["prompt", *(f"column {i}" for i in range(30_000))]) + "\na star" + "," * 30_000 + "\n")
    assert cli.main(["--csv", str(path), "--dry-run"]) == 0
    assert len(asked) == header.MOST_HINTS
