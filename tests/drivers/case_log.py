"""A plugin of pytest, loaded with `-p case_log`: each case's outcome as a line of the file that CASE_LOG names. What a run
before has logged there is not run again, so that one after a crash goes on behind it."""

import os
import re

import pytest

LOG = os.environ["CASE_LOG"]
BETTER_FIRST = ["passed", "skipped", "failed"]


def logged():
    with open(LOG) as log:
        return {line.rstrip("\n").split("\t", 1)[1] for line in log}


def name(item):
    """Without the folders before the suite's own, and without the server's version, which SQLAlchemy puts behind its driver's
    name: a case is the same on the next one."""
    in_suite = re.sub(r"^.*?(?=tests?/)", "", item.nodeid)
    return re.sub(r"(_postgresql\+\w+?)_\d+_\d+(?=::)", r"\1", in_suite)


def write(outcome, item):
    with open(LOG, "a") as log:
        print(outcome, name(item), sep="\t", file=log)


# Last, after the suite's own changes of what is run.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    done = logged()
    items[:] = [item for item in items if name(item) not in done]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    item.worst = "passed"
    write("begun", item)
    answer = yield
    write(item.worst, item)
    return answer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    outcome = "failed" if report.outcome == "passed" and getattr(report, "wasxfail", None) else report.outcome
    item.worst = max(getattr(item, "worst", "passed"), outcome, key=BETTER_FIRST.index)
    return report
