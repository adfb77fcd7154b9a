"""A plugin of pytest for runs on a device (`-p lost_device`): once an error has taken the process's context away, the tests that are left
fail at once and name the test that did it. Each would fail otherwise, by the same error wherever it first asks the device for anything."""

import pytest

lost = pytest.StashKey()


def error():
    """What the device answers where it answers nothing else any more, or None."""
    import cupy

    try:
        cupy.cuda.runtime.deviceSynchronize()
    except cupy.cuda.runtime.CUDARuntimeError as found:
        return str(found)
    return None


def pytest_runtest_setup(item):
    if (words := item.config.stash.get(lost, None)) is not None:
        pytest.fail(words, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and lost not in item.config.stash and (words := error()) is not None:
        item.config.stash[lost] = f"not run: {item.nodeid} has lost the device for this process: {words}"
    return report
