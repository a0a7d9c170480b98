"""The peers: how each is started in front of one engine, with one worker and little logging.

Everything else is at its default, unless the comment says why not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.bench.home import find_program
from tests.bench.process import KEY
from tests.bench.targets.base import MODELS, Command, Kind, Launcher
from tests.bench.targets.install import installed, venv_program
from tests.support.gateway import free_port

RUST = ("sglang-router", "vllm-router", "smg")


def _only(engines: Mapping[Kind, str]) -> tuple[Kind, str]:
    [(kind, url)] = engines.items()
    return kind, url


def _nginx(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
    # Keep-alive to the engine and no buffering of answers: without these it is slower and withholds streams.
    engine = _only(engines)[1].removeprefix("http://")
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 32768; }}
http {{ access_log off; keepalive_requests 100000000; client_max_body_size 64m;
 client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
 uwsgi_temp_path {folder}; scgi_temp_path {folder};
 upstream engine {{ server {engine}; keepalive 256; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://engine; proxy_http_version 1.1;
  proxy_set_header Connection ""; proxy_buffering off; }} }}
}}""")
    return Command([find_program("nginx") or "nginx", "-c", str(configuration), "-e", f"{folder}/error.log"])


def _haproxy(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
    # http-no-delay: forward each chunk at once. The limits: 10,000 callers must get in, and it would not start
    # where it may not open two descriptors for each.
    configuration = folder / "haproxy.cfg"
    configuration.write_text(f"""
global
  nbthread 1
  no strict-limits
  maxconn 12000
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  http-reuse always
  timeout connect 2s
  timeout client 300s
  timeout server 300s
frontend in
  bind 127.0.0.1:{port}
  default_backend engine
backend engine
  server e1 {_only(engines)[1].removeprefix("http://")} maxconn 8192
""")
    return Command([find_program("haproxy") or "haproxy", "-f", str(configuration)])


def _router(argv: list[str], port: int, engines: Mapping[Kind, str]) -> Command:
    # The concurrency limit: 1,000 streams must get in.
    engine = _only(engines)[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", engine]
    limits = [
        "--prometheus-port",
        str(free_port()),
        "--max-concurrent-requests",
        "8192",
        "--log-level",
        "error",
    ]
    return Command([*argv, *where, *limits])


def _vllm_router(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
    return _router([venv_program("vllm-router", "vllm-router")], port, engines)


def _sglang_router(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
    python = venv_program("sglang-router", "python")
    return _router([python, "-m", "sglang_router.launch_router"], port, engines)


def _smg(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
    return _router([venv_program("smg", "smg"), "launch"], port, engines)


def _litellm(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
    kind, engine = _only(engines)
    configuration = folder / "config.yaml"
    configuration.write_text(f"""
model_list:
  - model_name: {MODELS[kind]}
    litellm_params: {{model: openai/{MODELS[kind]}, api_base: {engine}/v1, api_key: {KEY}}}
litellm_settings: {{telemetry: false, set_verbose: false}}
""")
    where = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    # Its price list comes from the network unless told otherwise.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return Command([venv_program("litellm", "litellm"), *where], env=os.environ | quiet)


PEERS: Mapping[str, Launcher] = {
    launcher.name: launcher
    for launcher in (
        Launcher("nginx", _nginx),
        Launcher("haproxy", _haproxy),
        Launcher("vllm-router", _vllm_router),
        Launcher("sglang-router", _sglang_router),
        Launcher("smg", _smg),
        # At a few hundred requests a second it can't carry the other scenarios' loads.
        Launcher("litellm", _litellm, only=frozenset({"plain"}), kinds=("plain",)),
    )
}


def available(name: str) -> bool:
    return installed(name) or (name in ("nginx", "haproxy") and find_program(name) is not None)
