"""The environment that an engine gets: the variables of a list, and those of its settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sage_inference.config.secrets import Secret, SecretError
from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.managed.launch import LaunchError

# An engine reads more variables than its documents have. TEI takes HOSTNAME, PORT and API_KEY for its own
# options, vLLM takes any VLLM_PORT, and PYTHONPATH breaks an engine in a virtual environment of its own.
_ALLOWED = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SHELL"),
        *(
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "LD_LIBRARY_PATH",
            "CUDA_HOME",
            "CUDA_PATH",
            "CUDA_CACHE_PATH",
        ),
        *(
            "HF_HOME",
            "HF_ENDPOINT",
            "HF_HUB_OFFLINE",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "TRANSFORMERS_OFFLINE",
        ),
        *("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *(
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "no_proxy",
        ),
        *("CC", "CXX", "OMP_NUM_THREADS"),
    }
)
_ALLOWED_BEGINNINGS = ("LC_", "NCCL_", "GLOO_", "HF_XET_")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SILENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "NO_COLOR": "1",  # the log is a file
    "PYTHONUNBUFFERED": "1",  # progress is read from the log as it is written
}
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
# A shorter text stands in any log by chance, and its masking would make the log unreadable.
_SHORTEST_SECRET = 6


def inherited(environ: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """The allowed variables of our own environment. ``folder`` stands first in PATH."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or name.startswith(_ALLOWED_BEGINNINGS)
    }
    path = environ.get("PATH") or os.defpath
    kept["PATH"] = f"{folder}{os.pathsep}{path}" if folder else path
    return kept | _SILENT


def for_the_hub(managed: ManagedSettings, environ: Mapping[str, str], *, downloads: bool) -> dict[str, str]:
    """The variables about downloaded models. The token goes only to an engine that loads from the hub."""
    found: dict[str, str] = {}
    if managed.hf_home:
        found["HF_HOME"] = str(Path(managed.hf_home).expanduser())
    if is_offline(managed, environ):
        found |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "LLAMA_ARG_OFFLINE": "1"}
    elif managed.offline is False:
        found |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    token = hub_token(managed, environ)
    if downloads and token:
        found["HF_TOKEN"] = token
    return found


def is_offline(managed: ManagedSettings, environ: Mapping[str, str]) -> bool:
    if managed.offline is not None:
        return managed.offline
    return environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_token(managed: ManagedSettings, environ: Mapping[str, str]) -> str | None:
    """The token for gated models. Raises ``LaunchError`` if its source cannot be read."""
    if managed.hf_token:
        return revealed("managed.hf_token", managed.hf_token, environ)
    return next((environ[name] for name in TOKENS if environ.get(name)), None)


def own(engine: ManagedEngineSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the engine's ``env``. Raises ``LaunchError`` if a source cannot be read."""
    return {name: revealed(f"env.{name}", value, environ) for name, value in engine.env.items()}


def revealed(where: str, secret: Secret, environ: Mapping[str, str]) -> str:
    try:
        return secret.reveal(environ)
    except (SecretError, OSError, ValueError, RuntimeError) as error:
        raise LaunchError(f"{where}: {error}", "mend it, or remove it from the configuration") from None


def secrets_in(engine: ManagedEngineSettings, env: Mapping[str, str]) -> Iterator[str]:
    """The values that no log may show: those with a telling name, and those that a setting takes from elsewhere."""
    for name, value in env.items():
        given = engine.env.get(name)
        is_secret = any(word in name.upper() for word in _SECRET_WORDS) or (given and not given.is_literal)
        if is_secret and len(value) >= _SHORTEST_SECRET:
            yield value


def masked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
