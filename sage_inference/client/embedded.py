"""Embeddings computed in this process, without a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from sage_inference.client.vectors import Vector

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class EmbeddedModel:
    """A sentence-transformers model, given by name or directory. It is loaded at its first use."""

    def __init__(self, name: str | None) -> None:
        self.name = name or DEFAULT_MODEL
        self._model: Any = None
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """A vector per text, in the order of the texts. Raises ``ImportError`` if the extra is not installed."""
        with self._lock:
            if self._model is None:
                self._model = self._loaded()
        rows = self._model.encode(list(texts), convert_to_numpy=True)
        return [row.astype("<f4").tobytes() for row in rows]

    def _loaded(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError(
                "embedded mode needs sentence-transformers: pip install 'sage-inference[embedded]', "
                "or give base_url"
            ) from None
        return SentenceTransformer(self.name)
