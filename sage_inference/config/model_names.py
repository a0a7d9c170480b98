"""Checks the models that settings name: whether an engine serves them, and whether two names mean one model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from sage_inference.config.errors import Remark, meant, quote
from sage_inference.config.schema import Step, join
from sage_inference.config.settings import Settings

Resolve = Callable[[str], str]  # the served model behind a name

_SHOWN = 5  # served models in a hint


def aliased(settings: Settings) -> Resolve:
    """A function that resolves the configuration's aliases. It does not know engines that serve an alias's own name."""
    return lambda name: settings.aliases.get(name, name)


def one_model_twice(settings: Settings, resolve: Resolve) -> Iterator[Remark]:
    """Remarks on settings of two names for one model. Only one of them has an effect, see ``Registry.by_served_model``."""
    for steps, names in _maps(settings):
        by_model: dict[str, list[str]] = {}
        for name in names:
            by_model.setdefault(resolve(name), []).append(name)
        for model, twins in by_model.items():
            if len(twins) > 1:
                holds = model if model in twins else twins[-1]
                idle = " and ".join(quote(name) for name in twins if name != holds)
                yield Remark(
                    f"{join(steps)}: {idle} and {quote(holds)} are names of one model; only {quote(holds)} has an effect",
                    "merge them under one name",
                )


def unserved(settings: Settings, resolve: Resolve, served: Collection[str]) -> Iterator[Remark]:
    """Remarks on models that settings name and that are not among ``served``."""
    for steps, name in _named(settings):
        if resolve(name) not in served and (name not in settings.aliases or steps[0] == "aliases"):
            near = meant(name, served)
            more = f" and {len(served) - _SHOWN} more" if len(served) > _SHOWN else ""
            hint = near or f"served are {', '.join(quote(each) for each in list(served)[:_SHOWN])}{more}"
            yield Remark(f"{join(steps)}: no engine serves a model {quote(name)}", hint)


def _named(settings: Settings) -> Iterator[tuple[tuple[Step, ...], str]]:
    for key in ("llm_model", "embedding_model"):
        if name := getattr(settings, key):
            yield (key,), name
    for alias, model in settings.aliases.items():
        yield ("aliases", alias), model
    for steps, names in _maps(settings):
        for name in names:
            yield (*steps, name), name


def _maps(settings: Settings) -> Iterator[tuple[tuple[Step, ...], Collection[str]]]:
    """The settings that have an entry per model."""
    yield ("scheduling", "policies"), settings.scheduling.policies
    yield ("scheduling", "slo", "models"), settings.scheduling.slo.models
