"""Serve applications: one for each model, because only one deployment of an application gets ports of its own."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve

from sage_inference.cluster.engine import SHUTDOWN_S, EngineReplica
from sage_inference.config.cluster_file import ClusterModelSettings, ClusterSettings, cluster_from_data
from sage_inference.config.document import plain
from sage_inference.config.ray_names import DEPLOYMENT

# Serve's own proxy, which nothing here uses. Its default port is the gateway's.
_PROXY_PORT = 18399
_HEALTH_PERIOD_S, _HEALTH_TIMEOUT_S = 10.0, 30.0


def build(args: dict[str, Any]) -> Any:
    """The application of one model. ``args`` is the file of ``cluster up`` with one model. Raises ``ConfigError``.

    A Serve configuration names it as ``import_path: sage_inference.cluster.app:build``.
    """
    return _bound(cluster_from_data(args), args)


def deploy(document: dict[str, Any]) -> list[str]:
    """Deploy the models of the file. Other applications stay as they are. Returns the names of the applications.

    Returns when Serve has taken the order, and not when the engines run.
    """
    settings = cluster_from_data(document)
    ray.init(address="auto", log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "0.0.0.0", "port": _PROXY_PORT})
    targets = []
    for at, model in enumerate(settings.models):
        name = settings.application_of(model)
        one = {**document, "models": [document["models"][at]]}
        targets.append(
            serve.RunTarget(build(one), name, route_prefix=f"/{name}", external_scaler_enabled=True)
        )
    # ``serve.run`` would wait for ever for a replica that no machine has room for.
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return [target.name for target in targets]


def delete(names: list[str]) -> None:
    """Order the end of applications, with their engines. They drain first, which takes longer than Serve would wait."""
    ray.init(address="auto", log_to_driver=False)
    for name in names:
        serve.delete(name, _blocking=False)


def _bound(settings: ClusterSettings, document: dict[str, Any]) -> Any:
    [model] = settings.models
    made = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=model.replicas,
        ray_actor_options=_needs(model),
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=SHUTDOWN_S,
    )(EngineReplica)
    return made.bind(document)


def _needs(model: ClusterModelSettings) -> dict[str, Any]:
    """A replica waits for its engine and computes nothing: it takes no CPU, so that GPUs alone decide."""
    needs: dict[str, Any] = {"num_cpus": 0 if model.gpus or model.node_resources else 1}
    if model.gpus:
        needs["num_gpus"] = int(model.gpus) if model.gpus >= 1 else model.gpus
    if model.node_resources:
        needs["resources"] = plain(model.node_resources)
    return needs
