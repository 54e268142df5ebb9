"""What a run of the tests says of failures and of tests that could not run here."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator

import pytest

from tests.servers import logs, programs
from tools.flaky import FAILURE


def pytest_configure() -> None:
    """Let the processes that tests start heed signals, also where this run was started by nohup or in the background."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    logs.close_all()


def pytest_runtest_setup() -> None:
    """Let a failure show only what the servers write from here on."""
    logs.begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last lines of the servers' logs to the report of a test that fails."""
    report = yield
    if report.failed:
        report.sections.extend((f"the end of {path}", text) for path, text in logs.last_lines())
        printed = [report.longreprtext, *(f"--- {name}\n{text}" for name, text in report.sections)]
        report.user_properties.append((FAILURE, "\n".join(printed)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests that were skipped for want of a server, by the reason."""
    reasons = Counter(
        report.longrepr[2]
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and programs.WANTING in report.longrepr[2]
    )
    if reasons:
        terminalreporter.section("not run for want of a server")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count} tests: {reason}")
