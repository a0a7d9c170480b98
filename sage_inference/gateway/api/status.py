"""The gateway's state: the document behind ``status``."""

from __future__ import annotations

import os
from typing import Any

from sage_inference._version import __version__
from sage_inference.config.errors import Remark
from sage_inference.config.model_names import one_model_twice, unserved
from sage_inference.control_plane.slo_table import SloTable
from sage_inference.gateway.embeddings import report as embeddings
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.managed.documents import engine_documents
from sage_inference.gateway.managed.engine_set import ManagedEngines
from sage_inference.gateway.upstream import Upstream
from sage_inference.netloc import origin
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType, RequestPriority

_KINDS = {
    ExecutionInstanceType.GENERAL: "llm",
    ExecutionInstanceType.LLM_EMBEDDING: "mixed",
}
_RANKING = frozenset({"/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"})
_EMBEDDING = frozenset({"/v1/embeddings", "/embed"})
_CLASSIFYING = frozenset({"/classify", "/predict"})


def address_of(gateway: Gateway) -> str:
    """The URL of the gateway, by the address with which it was started."""
    server = gateway.settings.server
    return origin(server.host, server.port, gateway.certificate is not None)


def status_document(gateway: Gateway, engines: ManagedEngines | None = None) -> dict[str, Any]:
    """The document. ``engines`` are the managed ones. Names have units, unknown facts are None, and within ``schema`` 1 keys are only added."""
    return {
        "schema": 1,
        "state": "draining" if gateway.draining else "running",
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(gateway.uptime_s, 1),
        "address": address_of(gateway),
        "certificate": None if gateway.certificate is None else gateway.certificate.document(),
        "needs_key": gateway.guard.has_keys,
        "policy": gateway.scheduler.policy.name,
        "simulated": any(e.instance.simulated for e in gateway.engines.values()),
        "requests": {
            "in_flight": gateway.in_flight,
            "queued": gateway.scheduler.queued + len(gateway.waiting_room),
            "total": gateway.stats.total,
        },
        "slos": _slos(gateway.scheduler.slos),
        "embeddings": embeddings.status_of(gateway.embeddings),
        "usage": None if gateway.usage is None else gateway.usage.document(),
        "tracing": None if gateway.tracer is None else gateway.tracer.document(),
        "discover": gateway.found.wanted,
        "sources": gateway.sources.documents(),
        "engines": engine_documents(engines),
        "instances": [instance_document(gateway, engine) for engine in gateway.engines.values()],
        "warnings": [
            *map(str, _remarks(gateway)),
            *(gateway.found.notes if gateway.found.wanted else ()),
            *(gateway.usage.remarks() if gateway.usage is not None else ()),
        ],
    }


def _slos(table: SloTable) -> list[dict[str, Any]]:
    """The SLOs in effect, by models and priority; empty while all of them are the usual default."""
    if not table.differ:
        return []
    return [
        {
            "models": models,
            "priority": priority.name.lower(),
            "ttft_ms": round(slo.ttft_ms, 1),
            "ttft_from": slo.ttft_from,
            "ttft_times": slo.ttft_times,
            "tpot_ms": round(slo.tpot_ms, 1),
            "tpot_from": slo.tpot_from,
        }
        for models, row in table.groups()
        for priority, slo in zip(RequestPriority, row, strict=True)
    ]


def _remarks(gateway: Gateway) -> list[Remark]:
    """Remarks on the certificate, and on the models in the settings.

    No model counts as unserved before every engine has listed its own.
    """
    settings, registry = gateway.settings, gateway.registry
    found = list(one_model_twice(settings, registry.resolve))
    instances = registry.instances.values()
    if instances and all(instance.models for instance in instances):
        served = [*registry.models(), *gateway.waiting_room.declared]
        found += unserved(settings, registry.resolve, served)
    return found if gateway.certificate is None else [*gateway.certificate.remarks(), *found]


def kind_of(instance: ExecutionInstance) -> str:
    """``llm``, ``embedding``, ``reranker``, ``classifier``, ``mixed``, ``prefilling`` or ``decoding``."""
    kind = instance.instance_type
    if kind is ExecutionInstanceType.EMBEDDING and instance.routes and not instance.routes & _EMBEDDING:
        if instance.routes & _RANKING:
            return "reranker"
        if instance.routes & _CLASSIFYING:
            return "classifier"
    return _KINDS.get(kind, kind.value)


def instance_document(gateway: Gateway, engine: Upstream) -> dict[str, Any]:
    instance = engine.instance
    known = engine.detected is not None
    healthy = instance.state is EngineState.READY
    return {
        "name": instance.instance_id,
        "url": engine.address.url,
        "engine": instance.engine.value if known else None,
        "kind": kind_of(instance) if known else None,
        "models": list(instance.models),
        "state": instance.state.value,
        "simulated": instance.simulated,
        "found": instance.instance_id in gateway.found.names,
        "source": gateway.sources.owner_of(instance.instance_id),
        "node": gateway.sources.node_of(instance.instance_id),
        "in_flight": instance.active_requests,
        "queued": None,
        "ttft_ms": None if engine.ttft_ms is None else round(engine.ttft_ms, 1),
        "last_error": None if healthy else engine.last_error,
        "gpu": instance.gpu,
    }
