"""One OpenAI-compatible endpoint in front of the vLLM and TEI engines of a workstation.

Each public name is loaded when it is first used, so importing the package loads nothing else.
"""

from __future__ import annotations

from sage_inference._version import __version__

TYPE_CHECKING = False  # ``typing`` takes 5 ms and a megabyte, of which the keeper of an engine uses nothing
if TYPE_CHECKING:
    from typing import Any

    from sage_inference.client.compat import EmbeddingClientAdapter as EmbeddingClientAdapter
    from sage_inference.client.compat import LLMClientAdapter as LLMClientAdapter
    from sage_inference.client.compat import create_embedding_client_compat as create_embedding_client_compat
    from sage_inference.client.compat import create_llm_client_compat as create_llm_client_compat
    from sage_inference.client.config import UnifiedClientConfig as UnifiedClientConfig
    from sage_inference.client.config import UnifiedClientMode as UnifiedClientMode
    from sage_inference.client.errors import AuthenticationError as AuthenticationError
    from sage_inference.client.errors import BadRequestError as BadRequestError
    from sage_inference.client.errors import EngineError as EngineError
    from sage_inference.client.errors import InferenceConnectionError as InferenceConnectionError
    from sage_inference.client.errors import InferenceTimeoutError as InferenceTimeoutError
    from sage_inference.client.errors import NoServerFoundError as NoServerFoundError
    from sage_inference.client.errors import NotFoundError as NotFoundError
    from sage_inference.client.errors import RateLimitedError as RateLimitedError
    from sage_inference.client.errors import SageInferenceError as SageInferenceError
    from sage_inference.client.intelligent import IntelligentEmbeddingClient as IntelligentEmbeddingClient
    from sage_inference.client.intelligent import IntelligentLLMClient as IntelligentLLMClient
    from sage_inference.client.results import InferenceResult as InferenceResult
    from sage_inference.client.results import Ranking as Ranking
    from sage_inference.client.streams import AsyncTextStream as AsyncTextStream
    from sage_inference.client.streams import TextStream as TextStream
    from sage_inference.client.unified import UnifiedInferenceClient as UnifiedInferenceClient
    from sage_inference.client.unified_async import AsyncUnifiedInferenceClient as AsyncUnifiedInferenceClient
    from sage_inference.config.backend import BackendInstanceConfig as BackendInstanceConfig
    from sage_inference.control_plane.embedding.batch import EmbeddingBatch as EmbeddingBatch
    from sage_inference.control_plane.embedding.request import EmbeddingPriority as EmbeddingPriority
    from sage_inference.library.classifier import RequestClassifier as RequestClassifier
    from sage_inference.library.classifier import ValidationResult as ValidationResult
    from sage_inference.library.config import SchedulingPolicyType as SchedulingPolicyType
    from sage_inference.library.config import UnifiedServerConfig as UnifiedServerConfig
    from sage_inference.library.coordinator import ExecutionCoordinator as ExecutionCoordinator
    from sage_inference.library.embedding_executor import EmbeddingExecutor as EmbeddingExecutor
    from sage_inference.library.embedding_executor import EmbeddingExecutorError as EmbeddingExecutorError
    from sage_inference.library.embedding_executor import (
        EmbeddingInstanceUnavailableError as EmbeddingInstanceUnavailableError,
    )
    from sage_inference.library.embedding_executor import EmbeddingMetrics as EmbeddingMetrics
    from sage_inference.library.embedding_executor import EmbeddingRequestError as EmbeddingRequestError
    from sage_inference.library.embedding_executor import EmbeddingResult as EmbeddingResult
    from sage_inference.library.embedding_executor import EmbeddingTimeoutError as EmbeddingTimeoutError
    from sage_inference.library.hybrid import HybridSchedulingPolicy as HybridSchedulingPolicy
    from sage_inference.library.hybrid_config import HybridSchedulingConfig as HybridSchedulingConfig
    from sage_inference.library.manager import ControlPlaneManager as ControlPlaneManager
    from sage_inference.library.policies import AdaptivePolicy as AdaptivePolicy
    from sage_inference.library.policies import CostOptimizedPolicy as CostOptimizedPolicy
    from sage_inference.library.policies import FIFOPolicy as FIFOPolicy
    from sage_inference.library.policies import PriorityPolicy as PriorityPolicy
    from sage_inference.library.policies import SchedulingPolicy as SchedulingPolicy
    from sage_inference.library.policies import SLOAwarePolicy as SLOAwarePolicy
    from sage_inference.library.requests import RequestMetadata as RequestMetadata
    from sage_inference.library.server import UnifiedAPIServer as UnifiedAPIServer
    from sage_inference.library.server import create_unified_server as create_unified_server
    from sage_inference.types import EngineState as EngineState
    from sage_inference.types import ExecutionInstance as ExecutionInstance
    from sage_inference.types import ExecutionInstanceType as ExecutionInstanceType
    from sage_inference.types import PerformanceMetrics as PerformanceMetrics
    from sage_inference.types import RequestPriority as RequestPriority
    from sage_inference.types import RequestStatus as RequestStatus
    from sage_inference.types import RequestType as RequestType
    from sage_inference.types import SchedulingDecision as SchedulingDecision

    UnifiedClient = UnifiedInferenceClient

# Where each public name lives. Type checkers read the list above; a test holds the two together.
_HOMES = {
    "client.compat": (
        "EmbeddingClientAdapter",
        "LLMClientAdapter",
        "create_embedding_client_compat",
        "create_llm_client_compat",
    ),
    "client.config": (
        "UnifiedClientConfig",
        "UnifiedClientMode",
    ),
    "library.coordinator": ("ExecutionCoordinator",),
    "client.errors": (
        "AuthenticationError",
        "BadRequestError",
        "EngineError",
        "InferenceConnectionError",
        "InferenceTimeoutError",
        "NoServerFoundError",
        "NotFoundError",
        "RateLimitedError",
        "SageInferenceError",
    ),
    "client.intelligent": (
        "IntelligentEmbeddingClient",
        "IntelligentLLMClient",
    ),
    "library.manager": ("ControlPlaneManager",),
    "client.results": (
        "InferenceResult",
        "Ranking",
    ),
    "client.streams": (
        "AsyncTextStream",
        "TextStream",
    ),
    "client.unified": ("UnifiedInferenceClient",),
    "client.unified_async": ("AsyncUnifiedInferenceClient",),
    "library.classifier": (
        "RequestClassifier",
        "ValidationResult",
    ),
    "config.backend": ("BackendInstanceConfig",),
    "control_plane.embedding.batch": ("EmbeddingBatch",),
    "control_plane.embedding.request": ("EmbeddingPriority",),
    "library.hybrid_config": ("HybridSchedulingConfig",),
    "library.embedding_executor": (
        "EmbeddingExecutor",
        "EmbeddingExecutorError",
        "EmbeddingInstanceUnavailableError",
        "EmbeddingMetrics",
        "EmbeddingRequestError",
        "EmbeddingResult",
        "EmbeddingTimeoutError",
    ),
    "library.config": (
        "SchedulingPolicyType",
        "UnifiedServerConfig",
    ),
    "library.hybrid": ("HybridSchedulingPolicy",),
    "library.policies": (
        "AdaptivePolicy",
        "CostOptimizedPolicy",
        "FIFOPolicy",
        "PriorityPolicy",
        "SLOAwarePolicy",
        "SchedulingPolicy",
    ),
    "library.requests": ("RequestMetadata",),
    "library.server": (
        "UnifiedAPIServer",
        "create_unified_server",
    ),
    "types": (
        "EngineState",
        "ExecutionInstance",
        "ExecutionInstanceType",
        "PerformanceMetrics",
        "RequestPriority",
        "RequestStatus",
        "RequestType",
        "SchedulingDecision",
    ),
}
_LAZY = {name: (home, name) for home, names in _HOMES.items() for name in names}
_LAZY["UnifiedClient"] = ("client.unified", "UnifiedInferenceClient")

__all__ = ["__version__", *_LAZY]  # noqa: PLE0604 - names, all of them


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sage_inference' has no attribute {name!r}")
    from importlib import import_module

    home, real = _LAZY[name]
    value = globals()[name] = getattr(import_module(f"sage_inference.{home}"), real)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
