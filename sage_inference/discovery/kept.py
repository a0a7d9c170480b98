"""The last good list of a source on disk. A start that finds the source silent uses it. Keys are left out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_inference.config.errors import ConfigError
from sage_inference.config.load import parse_instance
from sage_inference.config.settings import InstanceSettings, SourceSettings
from sage_inference.config.source_rules import label_of
from sage_inference.discovery.entries import with_keys_of
from sage_inference.discovery.source import Offered
from sage_inference.keeper import files

_LARGEST = 1 << 22
_SCHEMA = 1
_TEXTS = ("url", "name", "kind", "engine", "model", "ca_file", "gpu")


class KeptList:
    """The file of one source in ``folder``. Its user alone can read it. Its methods block."""

    def __init__(self, folder: Path, source: SourceSettings) -> None:
        self._source = source
        self._label = label_of(source)
        self._file = folder / f"{hashlib.sha256(self._label.encode()).hexdigest()[:16]}.json"

    def read(self) -> tuple[Offered, ...] | None:
        """The list; None if there is no file, or one that no gateway wrote."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(self._file, flags), "rb") as opened:
                document: Any = json.loads(opened.read(_LARGEST))
            if document["source"] != self._label:
                return None
            return tuple(self._offered(each) for each in document["engines"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError):
            return None

    def write(self, offered: Sequence[Offered]) -> None:
        """Replace the file in one step. Raises ``OSError``."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engines = [{**_document(each.settings), "node": each.node} for each in offered]
        document = {"schema": _SCHEMA, "source": self._label, "engines": engines}
        files.write(str(self._file.parent), self._file.name, document)

    def remove(self) -> None:
        """Remove the file. Raises ``OSError``."""
        self._file.unlink(missing_ok=True)

    def _offered(self, document: dict[str, Any]) -> Offered:
        node = document.pop("node")
        entry = parse_instance(document, str(self._file))
        return Offered(with_keys_of(self._source, entry), None if node is None else str(node))


def _document(settings: InstanceSettings) -> dict[str, Any]:
    found = {name: value for name in _TEXTS if (value := getattr(settings, name)) is not None}
    key = settings.api_key
    if key is not None and not key.is_literal:
        found["api_key"] = key.source  # the place of the key, as env:NAME
    for name in ("max_concurrent_requests", "max_batched_tokens", "kv_cache_tokens"):
        found[name] = getattr(settings, name)
    return found
