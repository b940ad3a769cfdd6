"""What every fault has: a mill, the same oracle, and a line in the table that `make faults` ends with."""

from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest
from fleet import write_models
from mill import SETTINGS, Mill
from own_broker import OwnBroker

from shared import settings as settings_
from shared.settings import Settings

HEAD = ("rounds", "rows", "kills", "drawn again", "recovery s", "verdict", "fault")


@pytest.fixture
def broker(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnBroker]:
    """A broker that only this test has; ask for it before the mill."""
    own = OwnBroker(tmp_path / "broker")
    monkeypatch.setenv("PIXELMILL_REDIS_URL", own.url)
    yield own
    own.close()


@pytest.fixture
def mill(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mill]:
    for name, value in (SETTINGS | {"MODELS": write_models(tmp_path)}).items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    mill = Mill(settings_.load(), tmp_path)
    request.node.user_properties.append(("fault", mill))
    yield mill
    mill.close()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """What holds after every fault, with the workers gone: an empty ledger, and no row drawn again without a kill."""
    result = yield
    mill = pyfuncitem.funcargs.get("mill")
    if mill:
        again = oracle.drawn_again(mill)
        assert max(again.values(), default=0) <= mill.kills, f"drawn more often than killed: {again.most_common(3)}"
        oracle.check_ledger(mill)
        mill.recovered()
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for verdict in ("passed", "failed")
        for report in terminalreporter.stats.get(verdict, ())
        if report.when == "call"
    ]
    lines = [_line(report, dict(report.user_properties)["fault"]) for report in reports if report.user_properties]
    if lines:
        terminalreporter.section("faults")
        for line in (HEAD, *lines):
            terminalreporter.write_line("  ".join([*(f"{cell:>11}" for cell in line[:-1]), line[-1]]))


def _line(report: pytest.TestReport, mill: Mill) -> tuple[str, ...]:
    name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    seconds = mill.recoveries_s()
    recovery = f"{seconds[len(seconds) // 2]:.1f}-{seconds[-1]:.1f}" if seconds else "-"
    again = sum(oracle.drawn_again(mill).values())
    counts = map(str, (len(mill.runs), sum(mill.runs.values()), mill.kills, again))
    return *counts, recovery, report.outcome, ": ".join([name, *mill.figures])
