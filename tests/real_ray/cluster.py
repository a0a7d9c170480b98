"""A real Ray cluster of two nodes on this machine, in a network of its own that has only a loopback.

Each of its processes carries a variable, by which they are found and ended. No other Ray of this machine is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from sage_inference.keeper import client as keeper

_MARK = "SAGE_REAL_RAY"
_PORT = 6380
_START_S = 120
HEAD = "http://127.0.0.1:8265"
BIN = Path(sys.executable).parent


class NoRayError(Exception):
    """Ray did not start here. The message is the reason."""


@dataclass(frozen=True, slots=True)
class RayReplica:
    """A replica, its process, and its engine. ``node`` is Ray's id of the machine."""

    id: str
    pid: int
    node: str
    engine_pid: int
    url: str


class RealRay:
    def __init__(self) -> None:
        self.home = Path(
            tempfile.mkdtemp(prefix="sr-")
        )  # Ray's sockets lie below, and a path may have 107 bytes
        self._mark = self.home.name
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SAGE_", "RAY_"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
            "TMPDIR": str(self.home),
            _MARK: self._mark,
        }

    def start(self) -> None:
        """Start head and node. Raises ``NoRayError``."""
        common = ["--num-cpus", "2", "--object-store-memory", "100000000", "--disable-usage-stats"]
        where = ["--node-ip-address", "127.0.0.1"]
        self._ray(
            "start", "--head", "--port", str(_PORT), "--temp-dir", str(self.home / "ray"), *where, *common
        )
        self._ray("start", "--address", f"127.0.0.1:{_PORT}", "--resources", '{"second": 9}', *where, *common)

    def _ray(self, *words: str) -> None:
        try:
            ended = subprocess.run(
                [BIN / "ray", *words],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NoRayError(f"ray {' '.join(words[:2])} did not end within {_START_S} s") from None
        if ended.returncode:
            lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
            raise NoRayError(f"ray {' '.join(words[:2])}: {lines[-1][:300] if lines else ended.returncode}")

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def named(self, *parts: str) -> list[psutil.Process]:
        """The processes whose command line has all of ``parts``."""
        found = []
        for process in self.processes():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(part in line for part in parts):
                found.append(process)
        return found

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = httpx.get(
            f"{HEAD}/api/serve/applications/", timeout=60, trust_env=False
        ).json()
        return document

    def replicas(self, application: str) -> list[RayReplica]:
        """Those that Ray shows with a port, and that answer there."""
        document = self.document()
        found = document["applications"].get(application)
        details = (
            {each["replica_id"]: each for each in found["deployments"]["engine"]["replicas"]} if found else {}
        )
        shown = []
        for group in document["target_groups"]:
            for target in group["targets"] if group["app_name"] == application else ():
                one = details.get(target["name"].rpartition("#")[2])
                if one is None:
                    continue
                url = f"http://{target['ip']}:{target['port']}{group['route_prefix']}"
                place = httpx.get(url, timeout=30, trust_env=False).json()
                shown.append(
                    RayReplica(one["replica_id"], one["pid"], one["node_id"], place["pid"], place["url"])
                )
        return shown

    def kill_node(self) -> list[int]:
        """Kill the second node with all that runs on it, as a power cut does. Returns the pids of its engines."""
        second = next(process for process in self.named("raylet") if "second" in " ".join(process.cmdline()))
        workers = second.children(recursive=True)
        owners = {process.pid for process in workers}
        engines = []
        for link in self._keepers():
            with link:
                if _replica_of(link.first.about) in self._replicas_of(owners):
                    engines += [link.keeper_pid, *link.first.pids]
        for pid in [*engines, second.pid, *owners]:
            with_signal(pid, signal.SIGKILL)
        return engines

    def _replicas_of(self, owners: set[int]) -> set[str]:
        return {
            each["replica_id"]
            for found in self.document()["applications"].values()
            for each in found["deployments"]["engine"]["replicas"]
            if each["pid"] in owners
        }

    def _keepers(self) -> list[keeper.KeeperLink]:
        root = self.home / f"sage-inference-cluster-{os.getuid()}"
        folders = [each for each in root.iterdir() if each.is_dir()] if root.is_dir() else []
        return [link for folder in folders if (link := keeper.adopt(folder)) is not None]

    def stop(self) -> None:
        """End all processes and engines, and remove the files."""
        for _ in range(3):
            for process in self.processes():
                with_signal(process.pid, signal.SIGKILL)
            time.sleep(0.2)
        for link in self._keepers():
            with link:
                link.kill()
                link.wait_exit(20)
        shutil.rmtree(self.home, ignore_errors=True)


def _replica_of(about: dict[str, Any]) -> str:
    return str(about.get("replica"))


def with_signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def awaited(what: Callable[[], Any], seconds: float, why: str) -> float:
    """Wait until ``what`` is true; errors of HTTP count as false. Returns the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            if what():
                return time.monotonic() - began
        except (httpx.HTTPError, KeyError, ValueError):
            pass
        assert time.monotonic() - began < seconds, f"{why} within {seconds:g} s"
        time.sleep(0.1)


def why_not_isolated() -> str | None:
    """The reason why Ray must not start here; None in a network that has only a loopback."""
    shown = [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    if shown == ["lo"]:
        return None
    return (
        f"this network has {', '.join(shown)}, and Ray listens on all addresses: run "
        "unshare -n sh -c 'ip link set lo up && exec .venv-ray/bin/pytest --real-ray tests/real_ray'"
    )
