"""The instances, and the groups of them that serve one model on one route."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from sage_inference.control_plane.instances.prefill_decode import (
    PREFILL,
    eligible,
    is_disaggregated,
    path_of,
    pinned_to,
)
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType

T = TypeVar("T")

_LEAVING = (EngineState.DRAINING, EngineState.STOPPED)
_TAKES_NOTHING = (*_LEAVING, EngineState.ASLEEP)
LATEST = ":latest"  # the tag that an Ollama model's name without a tag means
VECTOR_ROUTES = frozenset(
    {"/v1/embeddings", "/embed", "/embed_all", "/embed_sparse", "/pooling", "/similarity"}
)


class Registry:
    """Instances by id, and their groups.

    A group is looked up once a request, so it is kept until an instance comes, goes, or changes what it serves. States
    and loads are read from the instances themselves. With prefilling and decoding instances the group of a model also
    depends on which of them are healthy, see ``prefill_decode``.
    """

    def __init__(self, aliases: Mapping[str, str] | None = None) -> None:
        self.instances: dict[str, ExecutionInstance] = {}
        self.aliases: dict[str, str] = dict(aliases or {})
        self.names: dict[str, str] = dict(self.aliases)  # aliases, and short names of tagged models
        self.version = 0  # grows with every change
        self.offers_choice = False  # whether several instances serve a model
        self.on_vectors: Callable[[str], None] = (
            _nobody  # called with a model that a request asks for, and whose instances are not all compared
        )
        # Models whose last instance left the list of a source a short time ago, each with the reason.
        self.departed: dict[str, str] = {}
        self.awaited: tuple[str, ...] = ()  # sources that have given no list yet
        self._doubted: set[str] = set()  # models to be compared again when they are wanted
        self._groups: dict[tuple[str, str], tuple[ExecutionInstance, ...]] = {}

    def add(self, instance: ExecutionInstance) -> None:
        """Raises ``ValueError`` when the id is taken: a second instance never replaces the first."""
        if instance.instance_id in self.instances:
            raise ValueError(f"instance {instance.instance_id} exists already")
        self.instances[instance.instance_id] = instance
        self.changed()

    def remove(self, instance_id: str) -> ExecutionInstance | None:
        instance = self.instances.pop(instance_id, None)
        if instance is not None:
            instance.state = EngineState.STOPPED
            self.changed()
        return instance

    def changed(self) -> None:
        """The models, routes or state of an instance changed."""
        self._groups.clear()
        self.version += 1
        served = [model for i in self.instances.values() for model in i.models]
        tagged = (model for i in self.instances.values() if i.tagged for model in i.models)
        short = {model.removesuffix(LATEST): model for model in tagged if model.endswith(LATEST)}
        self.names = {**short, **self.aliases}
        self.offers_choice = len(set(served)) < len(served)

    def resolve(self, model: str) -> str:
        """The served model behind a name; a served model's own name wins over an alias."""
        target = self.names.get(model)
        if target is None or any(model in i.models for i in self.instances.values()):
            return model
        return target

    def by_served_model(self, stated: Mapping[str, T]) -> dict[str, tuple[str, T]]:
        """Values that are stated for names, by the served model behind the name, together with that name.

        The value for the model's own name applies before those for other names. Of these the last one applies.
        """
        found: dict[str, tuple[str, T]] = {}
        for name, value in stated.items():
            model = self.resolve(name)
            if found.get(model, ("",))[0] != model:
                found[model] = name, value
        return found

    def group(self, model: str, route: str) -> tuple[ExecutionInstance, ...]:
        """The instances that serve ``model`` on ``route`` and still take work, healthy or not."""
        key = (model, route)
        found = self._groups.get(key)
        if found is None:
            found = tuple(i for i in self.serving(path_of(route)) if model in i.models)
            if only := pinned_to(route):
                found = tuple(i for i in found if i.instance_id == only)
            elif is_disaggregated(found):
                found = eligible(found, route)
            if route in VECTOR_ROUTES and len(found) > 1:
                if any(model in i.uncompared for i in found):
                    self.on_vectors(model)
                    return _of_one_kind(found, model)
                if model in self._doubted:
                    self._doubted.discard(model)
                    self.on_vectors(model)
            if found:  # never kept when empty: callers could fill memory with invented names
                self._groups[key] = found
        return found

    def doubt_vectors(self, model: str) -> None:
        """Have the model's instances compared again when a request asks for its vectors."""
        self._doubted.add(model)
        for route in VECTOR_ROUTES:
            self._groups.pop((model, route), None)

    def serving(self, route: str) -> list[ExecutionInstance]:
        """All instances that serve ``route`` and still take work."""
        return [i for i in self.instances.values() if route in i.routes and i.state not in _TAKES_NOTHING]

    def staying(self, route: str) -> list[ExecutionInstance]:
        """All instances that serve ``route`` and are not about to leave; some may be asleep."""
        return [i for i in self.instances.values() if route in i.routes and i.state not in _LEAVING]

    def is_served(self, route: str, model: str | None) -> bool:
        """Whether an instance serves ``model`` on ``route``; without a model, whether any instance serves the route."""
        return bool(self.group(self.resolve(model), route) if model else self.staying(route))

    def is_disaggregated(self, model: str) -> bool:
        """Whether a prefilling or a decoding instance serves the model."""
        return is_disaggregated(i for i in self.instances.values() if model in i.models)

    def can_disaggregate(self, model: str, path: str) -> bool:
        """Whether the prompt of a request can be computed on a prefilling instance now."""
        first = self.group(model, path + PREFILL)
        return bool(first) and first[0].instance_type is ExecutionInstanceType.PREFILLING

    def models(self, instances: Iterable[ExecutionInstance] | None = None) -> list[str]:
        """Names served, each once, in the order of the instances."""
        chosen = self.instances.values() if instances is None else instances
        return list(dict.fromkeys(model for i in chosen for model in i.models))


def _of_one_kind(group: tuple[ExecutionInstance, ...], model: str) -> tuple[ExecutionInstance, ...]:
    """The instances whose vectors are known to agree, while one of them is healthy; otherwise one instance."""
    compared = tuple(i for i in group if model not in i.uncompared)
    if any(i.is_available for i in compared):
        return compared
    return next(((i,) for i in group if i.is_available), compared or group[:1])


def _nobody(model: str) -> None: ...
