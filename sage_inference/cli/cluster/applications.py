"""The models of the cluster, as Serve shows them. The document may come from anywhere, so each part of it is checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_inference.cli.cluster.dashboard import Dashboard
from sage_inference.cli.errors import Failure
from sage_inference.config.ray_names import APPLICATIONS_PATH, DEPLOYMENT, REPLICA_ACTOR, RUNNING
from sage_inference.visible import visible

_BROKEN = ("DEPLOY_FAILED", "UNHEALTHY")
_LONGEST = 400
_ENGINE_ERROR = re.compile(r"ReplicaError: (.+)")
_NO_PACKAGE = re.compile(r"No module named '?sage_inference")
_LACKS = re.compile(
    r"has (\d+) replicas that have taken more than .*?Resources required for each replica: (\{.*?\}), "
    r"total resources available: (\{.*?\})\.",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Replica:
    id: str
    state: str
    node: str | None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One application. ``message`` is the reason of its state, from Serve or the engine. ``has_ports``: a gateway finds it."""

    name: str
    application: str
    state: str
    wanted: int
    replicas: tuple[Replica, ...]
    message: str | None
    has_ports: bool

    @property
    def running(self) -> int:
        return sum(replica.state == RUNNING for replica in self.replicas)

    @property
    def is_up(self) -> bool:
        return self.state == RUNNING and self.running >= self.wanted

    @property
    def problem(self) -> str | None:
        """The reason why it will not come up by itself soon; None while there is none."""
        lack = _lack(self.message or "")
        if lack is not None:
            return f"{self.name}: {lack}"
        if self.state in _BROKEN:
            return sentence(self.message or "") or f"{self.name} is {self.state}"
        return None

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "application": self.application,
            "state": self.state,
            "wanted": self.wanted,
            "running": self.running,
            "message": self.message,
            "replicas": [{"id": each.id, "state": each.state, "node": each.node} for each in self.replicas],
        }


@dataclass(frozen=True, slots=True)
class ServeView:
    """``host`` is the address on which replicas listen, None while Serve does not run."""

    models: tuple[ServedModel, ...]
    host: str | None


def look(dashboard: Dashboard, application: str) -> ServeView:
    """The models whose applications are ``application.NAME``. Raises ``Failure``."""
    document = dashboard.get(APPLICATIONS_PATH)
    applications = _mapping(document).get("applications")
    if not isinstance(applications, Mapping):
        raise Failure(
            f"{dashboard.url}{APPLICATIONS_PATH} does not answer as a Ray dashboard does",
            None,
            "not_a_dashboard",
        )
    ported = _with_ports(_mapping(document).get("target_groups"))
    models = [
        _model(name, _mapping(found), application, name in ported)
        for name, found in sorted(applications.items())
        if name.startswith(f"{application}.")
    ]
    host = _mapping(_mapping(document).get("http_options")).get("host")
    return ServeView(tuple(models), host if isinstance(host, str) else None)


def _model(application: str, found: Mapping[str, Any], group: str, has_ports: bool) -> ServedModel:
    deployment = _mapping(_mapping(found.get("deployments")).get(DEPLOYMENT))
    listed = deployment.get("replicas")
    wanted = deployment.get("target_num_replicas")
    replicas = [_replica(_mapping(each)) for each in listed] if isinstance(listed, list) else []
    message = _text(deployment.get("message")) or _text(found.get("message"))
    return ServedModel(
        name=visible(application.removeprefix(f"{group}.")),
        application=application,
        state=_text(found.get("status")) or "UNKNOWN",
        wanted=wanted if isinstance(wanted, int) and wanted >= 0 else 0,
        replicas=tuple(replicas),
        message=message,
        has_ports=has_ports,
    )


def _replica(found: Mapping[str, Any]) -> Replica:
    return Replica(
        _text(found.get("replica_id")) or "?",
        _text(found.get("state")) or "UNKNOWN",
        _text(found.get("node_ip")),
    )


def _with_ports(groups: Any) -> set[str]:
    found = set()
    for group in groups if isinstance(groups, list) else ():
        targets = _mapping(group).get("targets")
        for target in targets if isinstance(targets, list) else ():
            if str(_mapping(target).get("name", "")).startswith(REPLICA_ACTOR):
                found.add(str(_mapping(group).get("app_name")))
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return visible(value)[:4000] if isinstance(value, str) and value else None


def sentence(message: str) -> str | None:
    """The cause in a message of Serve, which holds the replica's whole traceback. None if it is empty."""
    message = message.replace("\\n", "\n")
    if found := _ENGINE_ERROR.findall(message):
        return str(found[-1])[:_LONGEST]
    if _NO_PACKAGE.search(message):
        return "a machine of the cluster has no sage-inference in Ray's Python; install it on each of them"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else None


def _lack(message: str) -> str | None:
    """The resources that no machine has free, as a sentence."""
    found = _LACKS.search(message)
    if found is None:
        return None
    try:
        needs, free = ast.literal_eval(found[2]), ast.literal_eval(found[3])
        short = [
            f"{amount:g} {name} where the cluster has {free.get(name, 0):g} free"
            for name, amount in needs.items()
            if amount and not str(name).startswith("node:")
        ]
    except (ValueError, SyntaxError, AttributeError, TypeError):
        return "no machine has room for it"
    return f"no machine has room for {found[1]} of its replicas, each of which needs {', and '.join(short)}"
