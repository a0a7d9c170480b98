"""What every test can use, and the switch that leaves the real engines out."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.real.fixtures import RealEngines, real_engines
from tests.support.engines import tei, vllm
from tests.support.scheduling import FileScheduling, add_waiting_workers

__all__ = ["real_engines", "tei", "vllm"]

# Tests start some thousand Python processes. Each would compile the whole package where this variable is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine is no failure, and what another version of the code failed at is no example for this one.
hypothesis.settings.register_profile("suite", deadline=None, database=None)
hypothesis.settings.load_profile("suite")


# A suite in the background of a shell, or under nohup, inherits ignored signals, and would pass them on to the
# gateways that it starts. These obey an ignored signal by doing nothing.
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(_number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-real-engines",
        action="store_true",
        help="leave out the tests that install and run a real vLLM, infinity and llama-server (minutes the first time, 5 GB)",
    )
    parser.addoption(
        "--all-clients",
        action="store_true",
        help="run the Node clients too, and fail unless the Python ones of the group clients are installed",
    )
    parser.addoption(
        "--real-ray",
        action="store_true",
        help="collect the tests before a real Ray cluster, which need the extra ray and a network of their own",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return (collection_path.name == "real_ray" and not config.getoption("--real-ray")) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    real = [item for item in items if item.get_closest_marker("real_engine")]
    if config.getoption("--no-real-engines"):
        items[:] = [item for item in items if item not in real]
        config.hook.pytest_deselected(items=real)
        return
    for item in real:
        # The first of them may install the engines; their own waits end sooner, and with a reason.
        item.add_marker(pytest.mark.timeout(1200))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector from what the suite's modules and test items hold: one pass over it takes 300 ms."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        add_waiting_workers(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    engines = getattr(item, "funcargs", {}).get("real_engines")
    if report.failed and isinstance(engines, RealEngines):
        for engine in engines.both:
            report.sections.append((f"log of the real {engine.recipe.name} engine", engine.log_tail()))
    return report
