"""Which instances there are, and which of them serve a model on a route."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sage_inference.types import EngineState, ExecutionInstance

_GONE = (EngineState.DRAINING, EngineState.STOPPED)


class Registry:
    """Instances by id, and their groups: those that serve one model on one route.

    A group is looked up once a request, so it is kept until an instance comes, goes or changes what it
    serves; states and loads are read from the instances themselves.
    """

    def __init__(self, aliases: Mapping[str, str] | None = None) -> None:
        self.instances: dict[str, ExecutionInstance] = {}
        self.aliases: dict[str, str] = dict(aliases or {})
        self.version = 0  # grows with every change
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
        """To be called after an instance's models, routes or draining changed."""
        self._groups.clear()
        self.version += 1

    def resolve(self, model: str) -> str:
        """The served model behind a name; a served model's own name wins over an alias."""
        target = self.aliases.get(model)
        if target is None or any(model in i.models for i in self.instances.values()):
            return model
        return target

    def group(self, model: str, route: str) -> tuple[ExecutionInstance, ...]:
        """Those that serve ``model`` on ``route`` and still take work, healthy or not."""
        key = (model, route)
        found = self._groups.get(key)
        if found is None:
            found = tuple(i for i in self.serving(route) if model in i.models)
            if found:  # never kept when empty: callers could fill memory with invented names
                self._groups[key] = found
        return found

    def serving(self, route: str) -> list[ExecutionInstance]:
        """All that serve ``route`` and still take work."""
        return [i for i in self.instances.values() if route in i.routes and i.state not in _GONE]

    def models(self, instances: Iterable[ExecutionInstance] | None = None) -> list[str]:
        """Names served, each once, in the order of the instances."""
        chosen = self.instances.values() if instances is None else instances
        return list(dict.fromkeys(model for i in chosen for model in i.models))
