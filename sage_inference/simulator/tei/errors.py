"""TEI's errors: its own shape, and the flat shape of its OpenAI route."""

from __future__ import annotations

import msgspec

_STATUS = {
    "Validation": 422,
    "Empty": 400,
    "Tokenizer": 422,
    "Overloaded": 429,
    "Backend": 424,
    "Unhealthy": 503,
}
OLD_VALIDATION_STATUS = 413  # until 1.8


class TEIError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    def status(self, *, old: bool) -> int:
        return OLD_VALIDATION_STATUS if old and self.kind == "Validation" else _STATUS[self.kind]

    def body(self, *, openai: bool, old: bool) -> bytes:
        if openai:
            flat = {"message": self.message, "code": self.status(old=old), "type": self.kind}
            return msgspec.json.encode(flat)
        return msgspec.json.encode({"error": self.message, "error_type": self.kind})


class BodyError(Exception):
    """An error of TEI's web framework, before TEI's own code runs. Its body is plain text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def wrong_shape(what: str) -> BodyError:
    return BodyError(422, f"Failed to deserialize the JSON body into the target type: {what}")


def not_a_model(kind: str) -> TEIError:
    words = {
        "embedding": "Model is not an embedding model",
        "reranker": "model is not a re-ranker model",
        "classifier": "Model is not a classifier model",
    }
    return TEIError("Backend", f"Backend error: {words[kind]}")
