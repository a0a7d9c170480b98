"""A hash of all that only a new start can change in an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.managed import environment
from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.programs import Program

# Keys that the gateway applies to a running engine.
_NOT_OF_THE_PROCESS = {"name", "start", "restart", "start_timeout_s", "stall_s", "stop_command", "instance"}


def hash_of(
    engine: ManagedEngineSettings, managed: ManagedSettings, program: Program, environ: Mapping[str, str]
) -> str:
    """The hash of the settings that a process begins with, and of its program.

    Facts that a start finds out are left out: the port, free memory, the GPUs that ``auto`` takes, and the variables that
    an engine inherits. Otherwise every gateway from another shell would find its engines outdated.
    """
    spec: dict[str, Any] = {
        each.name: getattr(engine, each.name)
        for each in fields(engine)
        if each.name not in _NOT_OF_THE_PROCESS and each.name != "env"
    }
    spec["env"] = {name: _value(secret, environ) for name, secret in engine.env.items()}
    spec["program"] = [*program.argv, program.version]
    spec["hf_home"] = managed.hf_home
    spec["offline"] = environment.is_offline(managed, environ)
    text = json.dumps(spec, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _value(secret: Secret, environ: Mapping[str, str]) -> str:
    try:
        return environment.revealed("env", secret, environ)
    except LaunchError:
        return secret.source  # the start reports it
