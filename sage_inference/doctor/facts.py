"""The facts that several checks need: the settings, and the state of the gateway and of its service, each found once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Settings
from sage_inference.daemon.control import DaemonState, inspect
from sage_inference.daemon.service import environment_file
from sage_inference.daemon.service.manager import Manager, ServiceError
from sage_inference.daemon.service.plan import ServicePlan, settings_of
from sage_inference.daemon.service.state import describe

_WITHIN_S = 1.3
_ANSWER_S = 1.0  # of the gateway

Value = TypeVar("Value")


class UnknownFactError(Exception):
    """A check cannot be made, because what it needs is not known. Another check reports the reason."""


class Fact(Generic[Value]):
    """A value that a thread of its own finds out."""

    def __init__(self, find_out: Callable[[], Value]) -> None:
        self._find_out = find_out
        self._future: Future[Value] = Future()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._find_out())
        except BaseException as error:
            self._future.set_exception(error)

    @property
    def value(self) -> Value:
        """Raises ``UnknownFactError`` where there is none in time."""
        try:
            return self._future.result(_WITHIN_S)
        except Exception as error:
            raise UnknownFactError from error

    @property
    def problem(self) -> BaseException | None:
        """The error that finding it out ended with. Waits without a limit: the check that reports it has one."""
        return self._future.exception()


@dataclass(frozen=True, slots=True)
class ServiceFact:
    """``absent`` is the reason why there is no user manager. ``document`` is as ``service status`` shows it."""

    absent: ServiceError | None
    document: dict[str, Any] | None = None

    @property
    def installed(self) -> bool:
        return bool(self.document and self.document["installed"])


class Facts:
    """``plan`` is that of the user's service, or of the system's."""

    def __init__(self, paths: Paths, plan: ServicePlan, environ: Mapping[str, str] | None = None) -> None:
        self.paths = paths
        self.plan = plan
        self.environ = os.environ if environ is None else environ
        self.state: Fact[DaemonState] = Fact(lambda: inspect(paths, timeout_s=_ANSWER_S))
        self.settings: Fact[Settings] = Fact(self._settings)
        self.service: Fact[ServiceFact] = Fact(self._service)

    def _settings(self) -> Settings:
        """The settings of the running gateway, or those that one would have that is started now."""
        from sage_inference.config import flags
        from sage_inference.config.load import load
        from sage_inference.daemon.launch_spec import flags_from

        if self.plan.which == "--system":
            settings = settings_of(self.plan)  # this shell's variables are not the service's
        else:
            settings = load(self.paths.config_file, self.environ)
        try:
            info = self.state.value.info
        except UnknownFactError:
            info = None
        return settings if info is None else flags.apply(settings, flags_from(info.flags))

    def _service(self) -> ServiceFact:
        try:
            return ServiceFact(None, describe(self.plan, Manager(self.plan.which, self.environ)))
        except ServiceError as absent:
            return ServiceFact(absent)

    def variables(self) -> Mapping[str, str]:
        """The variables that the gateway has, or will have: a service has those of its file as well."""
        if not self.service.value.installed:
            return self.environ
        names = dict.fromkeys(environment_file.names_in(self.plan.environment_file), "set")
        return names if self.plan.which == "--system" else names | dict(self.environ)
