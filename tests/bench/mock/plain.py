"""The plain engine: nginx, answering every chat request with one fixed completion of about 600 bytes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from tests.bench.home import need_program
from tests.bench.mock.models import models

MODEL = "mock-plain"
_CHOICE = {
    "index": 0,
    "message": {
        "role": "assistant",
        "content": "Paris is the capital of France. " * 4,
        "refusal": None,
        "reasoning": None,
    },
    "logprobs": None,
    "finish_reason": "stop",
    "stop_reason": None,
}
_ANSWER = {
    "id": "chatcmpl-9afa43d614c05652",
    "object": "chat.completion",
    "created": 1795466982,
    "model": MODEL,
    "choices": [_CHOICE],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": {
        "prompt_tokens": 16,
        "total_tokens": 48,
        "completion_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
    "prompt_logprobs": None,
    "kv_transfer_params": None,
}
ANSWER = json.dumps(_ANSWER, separators=(",", ":"))


def command(folder: Path, port: int) -> list[str]:
    """Writes the engine's files into ``folder``; the command that runs it in the foreground."""
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; default_type application/json;
 client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
 uwsgi_temp_path {folder}; scgi_temp_path {folder};
 server {{ listen 127.0.0.1:{port} backlog=4096;
  location = /v1/chat/completions {{ return 200 '{ANSWER}'; }}
  location = /v1/models {{ return 200 '{models(MODEL)}'; }}
  location = /health {{ return 200 ''; }}
  location = /count {{ stub_status; }}
  location / {{ return 404 '{{"detail":"Not Found"}}'; }}
 }}
}}""")
    return [need_program("nginx"), "-c", str(configuration), "-e", str(folder / "error.log")]


def requests_seen(url: str) -> int:
    """By nginx's own count, this question included."""
    with urllib.request.urlopen(f"{url}/count", timeout=5) as answer:
        return int(answer.read().split(b"\n")[2].split()[2])


def request() -> bytes:
    message = {"role": "user", "content": "Say it again. " * 20}
    return json.dumps({"model": MODEL, "messages": [message], "max_tokens": 32}).encode()
