"""The deployment of one model: each replica is the owner of one engine on its machine."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve

from sage_inference.cluster.folder import FolderError, folder_of, root_folder, sweep
from sage_inference.cluster.process import ORPHAN_S, STOP_GRACE_S, EnginePlan, OwnedEngine, ReplicaError, log
from sage_inference.config.cluster_file import ClusterModelSettings, ClusterSettings, cluster_from_data
from sage_inference.config.secrets import SecretError
from sage_inference.engines.managed.gpus import gpus
from sage_inference.engines.managed.recipes.base import Listen

_LONGEST_NODE = 64
_ENGINE_ENDED = 75  # the exit status of a replica whose engine has ended


class EngineReplica:
    """Starts an engine, and answers each request with its address. The engine ends with the replica."""

    async def __init__(self, document: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """``document`` is the file of ``cluster up`` with one model. Raises ``ReplicaError``; Serve shows its message."""
        settings = cluster_from_data(document)
        context = serve.get_replica_context()
        self._replica = str(context.replica_id.unique_id)
        self._node = socket.gethostname()[:_LONGEST_NODE]
        ids = [str(each) for each in ray.get_runtime_context().get_accelerator_ids().get("GPU", ())]
        self._gpu = _gpu(ids)
        plan = await asyncio.to_thread(self._plan, settings, str(context.app_name), ids)
        self._process = OwnedEngine(plan, os.environ)
        await asyncio.to_thread(self._process.start)
        try:
            await self._process.ready()
        except BaseException:
            await asyncio.to_thread(self._process.stop)
            raise
        self._process.watch(self._leave)

    def _plan(self, settings: ClusterSettings, application: str, ids: Sequence[str]) -> EnginePlan:
        [model] = settings.models
        try:
            key = settings.api_key.reveal(os.environ) if settings.api_key else None
            root = root_folder()
            sweep(root, time.time())
        except (SecretError, FolderError) as error:
            raise ReplicaError(f"engine {model.title} on {self._node}: {error}") from None
        return EnginePlan(
            name=model.title,
            entry=model.entry(_gpus_of(model, ids)),
            programs=model.programs(),
            listen=Listen(ray.util.get_node_ip_address(), key),
            ports=settings.ports,
            root=root,
            folder=folder_of(root, application, self._replica),
            about={"node": self._node, "replica": self._replica, "application": application},
        )

    async def __call__(self, request: Any) -> dict[str, Any]:
        """The address of the engine. ``gpu`` is a UUID or an index on this machine, None without a GPU."""
        process = self._process
        return {
            "url": process.url,
            "pid": process.pid,
            "replica": self._replica,
            "node": self._node,
            "gpu": self._gpu,
        }

    async def check_health(self) -> None:
        """Raises ``ReplicaError`` if the engine is not well. Serve replaces a replica after three such answers."""
        await self._process.health()

    def __del__(self) -> None:
        process = getattr(self, "_process", None)  # Serve calls this also if the start failed
        if process is not None:
            process.stop()

    def _leave(self, cause: str) -> None:
        """End this replica, because its engine has ended. Serve notices that at once, and starts another one."""
        log.error("%s; this replica ends, and Ray starts another one", cause)
        os._exit(_ENGINE_ENDED)


def _gpus_of(model: ClusterModelSettings, ids: Sequence[str]) -> tuple[str, ...]:
    """The GPUs that Ray gave this replica, as an engine's settings name them."""
    if not model.gpus:
        return ("cpu",)
    there = {str(gpu.index) for gpu in gpus()} | {gpu.uuid for gpu in gpus()}
    # NVML sees no AMD GPU. Then the engine gets Ray's variables, which show it the same GPUs.
    return tuple(ids) if ids and set(ids) <= there else ("auto",)


def _gpu(ids: Sequence[str]) -> str | None:
    by_index = {str(gpu.index): gpu.uuid for gpu in gpus()} if ids else {}
    return ",".join(by_index.get(each, each) for each in ids) or None


# Serve keeps a replica that leaves for 30 s, so that its callers can learn of it. Then the engine is stopped.
SHUTDOWN_S = ORPHAN_S + STOP_GRACE_S + 30.0
