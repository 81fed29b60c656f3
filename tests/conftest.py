"""Which tests run where. Nothing is left out in silence: what is not run is named at the very end, with the reason.

`root`: runs as root only; every other user's run names it. `full`: too long for CI, runs with `--full` or `-m full`.
With CI=true a skipped test is a failed test, and so is one that needs root and has not got it, unless HA_AGENT_NO_ROOT=1 says that this is
meant: a component that is missing there is a defect of the CI.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests import not_run

LEFT_OUT = pytest.StashKey[list[tuple[str, str]]]()

NEEDS_ROOT = "it needs root: run `make test` as root on Debian 12"
TOO_LONG = "it takes too long for CI: run `make test-full`"


def is_root() -> bool:
    """Whether root tests run; HA_AGENT_NO_ROOT=1 lets root see what another user would."""
    return os.geteuid() == 0 and not os.environ.get("HA_AGENT_NO_ROOT")


def lacks_root() -> bool:
    """Whether CI runs as a user where nobody said that it should."""
    return in_ci() and os.geteuid() != 0 and not os.environ.get("HA_AGENT_NO_ROOT")


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run also the tests that take too long for CI")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []


def reason_not_to_run(item: pytest.Item, config: pytest.Config) -> str:
    """Empty if the test runs."""
    if item.get_closest_marker("full") and not config.getoption("--full") and "full" not in config.getoption("-m"):
        return TOO_LONG
    if item.get_closest_marker("root") and not is_root() and not lacks_root():
        return NEEDS_ROOT
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    for item in items:
        reason = reason_not_to_run(item, config)
        if reason:
            dropped.append(item)
            config.stash[LEFT_OUT].append((item.nodeid, reason))
        else:
            kept.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and lacks_root():
        pytest.fail(f"{NEEDS_ROOT}; a CI that runs as a user on purpose sets HA_AGENT_NO_ROOT=1", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and in_ci() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI skips nothing: {report.longrepr}"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its list to the main process. Where every test was left out by name, that is no error."""
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash[LEFT_OUT]:
        session.exitstatus = pytest.ExitCode.OK
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out = node.config.stash[LEFT_OUT]
    for test, reason in getattr(node, "workeroutput", {}).get("left_out", []):
        if (test, reason) not in left_out:  # every worker collects every test
            left_out.append((test, reason))


def pytest_unconfigure(config: pytest.Config) -> None:
    """After pytest's own last line."""
    left_out = config.stash.get(LEFT_OUT, [])
    if hasattr(config, "workeroutput") or not left_out:
        return
    file = os.environ.get("HA_AGENT_NOT_RUN")
    if file:
        not_run.add(Path(file), left_out)
    else:
        print(not_run.render(left_out))
