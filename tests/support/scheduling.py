"""How pytest-xdist shares out the tests: by files, and first those that mostly wait to workers of their own."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# These wait for time to pass or for engines to load: they leave a core idle. The longest first.
WAITING = (
    "tests/bench/test_soak.py",
    "tests/integration/test_real_engines.py",
    "tests/integration/test_policies_live.py",
    "tests/integration/test_stalls.py",
    "tests/gateway/test_relay_limits.py",
    "tests/integration/test_lack.py",
    "tests/gateway/test_probes.py",
    "tests/gateway/test_pairs.py",
    "tests/gateway/test_relay_outages.py",
    "tests/engines/test_lack.py",
    "tests/daemon/test_restart.py",
    "tests/daemon/test_control.py",
    "tests/daemon/test_init.py",
    "tests/daemon/test_cleaned.py",
    "tests/daemon/test_hangup.py",
    "tests/bench_tool/test_waits.py",
    "tests/gateway/test_endings.py",
    "tests/gateway/embeddings/test_faults.py",
    "tests/bench/test_loads.py",
    "tests/engines/test_probe.py",
)
# These compute for a minute on one core. Begun late, they would be all that runs in the end.
LONG = ("tests/replay/test_policies_on_traces.py",)


# Most tests wait for a part of their time, so two workers leave two cores idle.
ADDITIONAL = 2


def add_waiting_workers(config: pytest.Config) -> None:
    """Some workers more than ``-n`` names, if the whole suite runs on several."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and config.getoption("dist") == "loadgroup" and (config.option.numprocesses or 0) > 1:
        config.option.tx = [*config.option.tx, *["popen"] * ADDITIONAL]


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """One worker runs all tests of a file, so the engines and gateways that they share are started once.

    The additional workers get the files of ``WAITING`` first. The others get those only when nothing else is left, and
    begin with ``LONG``. ``--dist loadgroup`` alone does neither: xdist 3.8 tells groups by an id that pytest 9.2 no
    longer has.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # it would order the files by their number of tests
        named = config.option.numprocesses or self.numnodes
        self._waiting_workers = [f"gw{number}" for number in range(named, self.numnodes)]

    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(self._next_for(node), last=False)
        super()._assign_work_unit(node)

    def _next_for(self, node: Any) -> str:
        waiting = [file for file in WAITING if file in self.workqueue]
        others = [file for file in LONG if file in self.workqueue]
        others += [file for file in self.workqueue if file not in WAITING and file not in LONG]
        if node.gateway.id in self._waiting_workers:
            return (waiting or others)[0]
        return others[0] if others else waiting[-1]
