"""The file of ``cluster up``: the models that a Ray cluster serves, and what each replica needs."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from sage_inference.config import tree
from sage_inference.config.build import Builder
from sage_inference.config.engine_rules import check_engine, name_of_engine
from sage_inference.config.engine_settings import ManagedEngineSettings
from sage_inference.config.errors import ConfigError, Invalid
from sage_inference.config.formats import check_engine_name
from sage_inference.config.load import read_text
from sage_inference.config.ray_names import APPLICATION
from sage_inference.config.secrets import Secret
from sage_inference.config.setting import setting

# Of one replica. Ray places a group of processes on one machine only if one machine has all of its GPUs.
_MOST_GPUS = 64
_PROGRAMS = ("vllm", "tei", "infinity", "llama_server")
_LONGEST_WORD = 96 << 10  # Linux takes 128 KiB for one word
_MOST_BYTES = 4 << 20
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_METADATA = {each.name: each for each in fields(ManagedEngineSettings)}


def _same(name: str) -> Any:
    """The key of the same name that engines of the gateway's own have."""
    found = _METADATA[name]
    more: dict[str, Any] = dict(found.metadata)
    if found.default_factory is not MISSING:
        return setting(factory=found.default_factory, **more)
    return setting(... if found.default is MISSING else found.default, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterModelSettings:
    """One model. Its replicas are equal, and each is one engine."""

    model: str = _same("model")
    name: str | None = _same("name")
    engine: str = _same("engine")
    program: tuple[str, ...] = setting(
        (),
        doc="The engine's executable, its virtual environment, or the words of a command, on each machine; "
        "by default looked for beside Ray's Python and in PATH.",
        example="/opt/vllm",
        loose=True,
    )
    kind: str = _same("kind")
    replicas: int = setting(1, doc="Engines that serve the model.", minimum=0, maximum=1000)
    gpus: float = setting(
        1.0,
        doc="GPUs of a replica, all on one machine; below 1 it shares one, and 0 is the CPU.",
        minimum=0,
        maximum=_MOST_GPUS,
    )
    node_resources: dict[str, float] = setting(
        doc="Ray's own resources that a replica takes from its machine.",
        factory=dict,
        example="{fast_disk: 1}",
    )
    served_names: tuple[str, ...] = _same("served_names")
    revision: str | None = _same("revision")
    tensor_parallel: int = _same("tensor_parallel")
    memory: str | None = _same("memory")
    max_model_len: int = _same("max_model_len")
    dtype: str | None = _same("dtype")
    quantization: str | None = _same("quantization")
    trust_remote_code: bool = _same("trust_remote_code")
    start_timeout_s: float = _same("start_timeout_s")
    stall_s: float = _same("stall_s")
    args: tuple[str, ...] = _same("args")
    env: dict[str, Secret] = _same("env")
    command: tuple[str, ...] = _same("command")
    stop_command: tuple[str, ...] = _same("stop_command")

    @property
    def title(self) -> str:
        """The name of the model in the cluster: ``name``, otherwise the last part of ``model`` in lower case."""
        return name_of_engine(self.entry())

    def entry(self, gpus: tuple[str, ...] = ("auto",)) -> ManagedEngineSettings:
        """The engine of one replica, on these GPUs."""
        shared = {each.name: getattr(self, each.name) for each in fields(self) if each.name in _METADATA}
        return ManagedEngineSettings(**{**shared, "gpus": gpus, "memory": self.memory or self._share()})

    def programs(self) -> dict[str, Any]:
        """The keys of ``managed`` with the place of its program."""
        return {self.engine: self.program} if self.program else {}

    def _share(self) -> str | None:
        """The part of a GPU's memory that belongs to a replica which shares it. None leaves it to the recipe."""
        if not 0 < self.gpus < 1 or self.command or self.engine == "command":
            return None
        return f"{0.92 * self.gpus:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    models: tuple[ClusterModelSettings, ...] = setting(
        doc="The models.", example="[{model: Qwen/Qwen2.5-7B-Instruct, replicas: 4}]"
    )
    application: str = setting(
        APPLICATION,
        doc="Beginning of the names of Ray's applications, one for each model.",
        format="engine_name",
    )
    api_key: Secret | None = setting(
        None,
        doc="Key that the engines ask for; env:NAME or file:PATH, read on each machine.",
        example="file:/etc/sage/engines.key",
    )
    ports: str = setting(
        "18400-18499", doc="Ports of the engines on each machine.", format="ports", loose=True
    )

    def application_of(self, model: ClusterModelSettings) -> str:
        return f"{self.application}.{model.title}"


def load_cluster(path: Path) -> ClusterSettings:
    """The settings in the file. Raises ``ConfigError`` with line and column."""
    text = read_text(path)
    if text is None:
        raise ConfigError("there is no such file", source=str(path), hint="sage docs cluster has an example")
    return parse_cluster(text, str(path))


def parse_cluster(text: str, source: str) -> ClusterSettings:
    """The settings in ``text``. ``source`` is its name in errors. Raises ``ConfigError``."""
    root = tree.read(text, source)
    if root is None or (isinstance(root, tree.Scalar) and root.value is None):
        raise ConfigError("the file is empty", source=source, hint="sage docs cluster has an example")
    return _checked(Builder(source).section(ClusterSettings, root), root, source)


def packed(settings: ClusterSettings, source: str = "") -> str:
    """The settings as one word of a command line. Raises ``ConfigError`` if it is too large for that."""
    word = base64.urlsafe_b64encode(zlib.compress(json.dumps(_data(settings)).encode(), 9)).decode()
    if len(word) > _LONGEST_WORD:
        raise ConfigError(
            f"has {len(word) >> 10} KiB in compressed form, and a Ray job takes {_LONGEST_WORD >> 10}",
            source=source,
            hint="divide it into several files",
        )
    return word


def _data(value: Any) -> Any:
    """The settings as JSON. Of a secret this is its place: one that is written out is refused, or is none."""
    if isinstance(value, Secret):
        return value.source
    if isinstance(value, tuple):
        return [_data(each) for each in value]
    if isinstance(value, dict):
        return {name: _data(each) for name, each in value.items()}
    if isinstance(value, ClusterSettings | ClusterModelSettings):
        given = {each.name: getattr(value, each.name) for each in fields(value)}
        return {name: _data(each) for name, each in given.items() if each is not None}
    return value


def unpacked(word: str) -> dict[str, Any]:
    """The settings that ``packed`` made, as JSON. Raises ``ConfigError``."""
    try:
        unzip = zlib.decompressobj()
        data = json.loads(unzip.decompress(base64.urlsafe_b64decode(word), _MOST_BYTES))
    except (ValueError, RecursionError, binascii.Error, zlib.error):
        data = None
    if not isinstance(data, dict):
        raise ConfigError(
            "the file did not arrive whole", hint="sage inference cluster up FILE sends it again"
        )
    return data


def cluster_from_data(data: Any) -> ClusterSettings:
    """The settings of decoded YAML or JSON. Raises ``ConfigError``."""
    root = tree.from_data(data, "")
    return _checked(Builder("").section(ClusterSettings, root), root, "")


def _checked(settings: ClusterSettings, root: tree.Node, source: str) -> ClusterSettings:
    """The settings if no rule between keys is broken. A broken one is reported at its model."""
    try:
        if not settings.models:
            raise ConfigError("models is empty", key="models", hint="write at least one model")
        _check_key(settings)
        taken: dict[str, str] = {}
        for at, model in enumerate(settings.models):
            _check_model(model, f"models[{at}]", taken)
    except ConfigError as error:
        mark = _mark(root, error.key or "")
        raise tree.error_at(source, mark, error.problem, error.hint, error.key) from None
    return settings


def _check_key(settings: ClusterSettings) -> None:
    if settings.api_key is not None and settings.api_key.is_literal:
        raise ConfigError(
            "api_key is written out, and Ray shows this file to everybody who reaches its dashboard",
            key="api_key",
            hint="put the key into a file on each machine, and write file:PATH",
        )


def _check_model(model: ClusterModelSettings, here: str, taken: dict[str, str]) -> None:
    _check_title(model, here, taken)
    check_engine(model.entry(), here)
    if model.gpus > 1 and model.gpus % 1:
        raise ConfigError(
            f"{here}.gpus is {model.gpus:g}, and Ray divides one GPU only",
            key=f"{here}.gpus",
            hint="write a whole number, or one below 1",
        )
    if model.program and model.engine not in _PROGRAMS:
        raise ConfigError(
            f"{here}.program is set, and engine is {model.engine}",
            key=f"{here}.program",
            hint=f"write engine: {', '.join(_PROGRAMS[:-1])} or {_PROGRAMS[-1]}",
        )
    if model.engine in ("tei", "infinity") and model.gpus > 1:
        raise ConfigError(
            f"{here}.gpus is {model.gpus:g}, and engine {model.engine} uses one",
            key=f"{here}.gpus",
            hint="write gpus: 1 and more replicas",
        )
    for name, amount in model.node_resources.items():
        if name in ("CPU", "GPU", "memory") or amount <= 0:
            raise ConfigError(
                f"{here}.node_resources.{name} is {amount:g}, and takes resources of your own above 0",
                key=f"{here}.node_resources",
                hint="GPUs are set by gpus" if name == "GPU" else "remove it",
            )
    for name, value in model.env.items():
        if value.is_literal and any(word in name.upper() for word in _SECRET_WORDS):
            raise ConfigError(
                f"{here}.env.{name} is written out, and Ray shows this file to everybody who reaches its dashboard",
                key=f"{here}.env",
                hint=f"write env:{name} or file:PATH, which is read on each machine",
            )


def _check_title(model: ClusterModelSettings, here: str, taken: dict[str, str]) -> None:
    try:
        check_engine_name(model.title)
    except Invalid as error:
        raise ConfigError(f"the name of {here} {error.problem}", key=f"{here}.name") from None
    twin = taken.setdefault(model.title.lower(), here)
    if twin != here:
        raise ConfigError(
            f"{here} and {twin} are both named {model.title}",
            key=f"{here}.name",
            hint="give one of them another name; for more engines of one model, raise replicas",
        )


def _mark(root: tree.Node, key: str) -> tree.Mark:
    """The place of ``models[1].gpus`` in the file, or of the entry that lacks it."""
    node = root
    for step in key.replace("]", "").replace("[", ".").split("."):
        if isinstance(node, tree.Mapping):
            found = [value for name, value in node.entries if name.text == step]
        elif isinstance(node, tree.Sequence) and step.isdigit():
            found = node.items[int(step) : int(step) + 1]
        else:
            found = []
        if not found:
            break
        node = found[0]
    return node.start
