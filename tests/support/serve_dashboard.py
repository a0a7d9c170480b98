"""A stand-in for the dashboard of a Ray cluster, as the commands of ``cluster`` use it. It runs no job: it notes them."""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sage_inference.config.cluster_file import cluster_from_data, unpacked


class ServeDashboard:
    """``script`` has bytes for a connection instead of any answer. ``job``: status, log, and message of the next jobs."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.host = "0.0.0.0"
        self.token: str | None = None
        self.shows_ports = True
        self.script: bytes | None = None
        self.stays_open = threading.Event()
        self.then_silent = False
        self.job: tuple[str, str, str] = ("SUCCEEDED", "", "")
        self.jobs: list[list[str]] = []
        self.asked: list[tuple[str, str]] = []
        self.scale_answer: tuple[int, Any] = (200, {"message": "Scaling request received."})
        self.ends_after = 0  # looks that show an application which is being deleted
        self._ending: list[str] = []
        self.changed: dict[str, dict[str, Any]] = {}  # of the applications that the next job deploys
        dashboard = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                dashboard.handle(self, "GET")

            def do_POST(self) -> None:
                dashboard.handle(self, "POST")

            def do_PUT(self) -> None:
                dashboard.handle(self, "PUT")

            def do_DELETE(self) -> None:
                dashboard.handle(self, "DELETE")

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, name: str, *, wanted: int = 1, running: int | None = None, **more: Any) -> None:
        """An application ``sage-engines.NAME``. ``more`` are status, message and node."""
        running = wanted if running is None else running
        self.applications[f"sage-engines.{name}"] = {"wanted": wanted, "running": running, **more}

    def document(self) -> dict[str, Any]:
        if self._ending and self.ends_after == 0:
            for name in self._ending:
                del self.applications[name]
            self._ending = []
        elif self._ending:
            self.ends_after -= 1
        ported = [name for name, found in self.applications.items() if found["running"] and self.shows_ports]
        return {
            "http_options": {"host": self.host, "port": 18399},
            "applications": {name: _application(name, found) for name, found in self.applications.items()},
            "target_groups": [
                {
                    "app_name": name,
                    "targets": [{"ip": "10.0.0.2", "port": 30000, "name": f"SERVE_REPLICA::{name}#a"}],
                }
                for name in ported
            ],
        }

    def handle(self, request: BaseHTTPRequestHandler, method: str) -> None:
        self.asked.append((method, request.path))
        body = json.loads(request.rfile.read(int(request.headers.get("content-length") or 0)) or b"null")
        if self.script is not None:
            request.wfile.write(self.script)
            request.wfile.flush()
            if self.then_silent:
                self.stays_open.wait(30)
            request.close_connection = True
            return
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            status, answer = 401, {"error": "Unauthorized"}
        else:
            status, answer = self._answer(method, request.path, body)
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match method, path.strip("/").split("/"):
            case "GET", ["api", "serve", "applications"]:
                return 200, self.document()
            case "POST", ["api", "jobs"]:
                self._run(shlex.split(body["entrypoint"]))
                return 200, {"submission_id": f"raysubmit_{len(self.jobs)}", "job_id": None}
            case "GET", ["api", "jobs", _, "logs"]:
                return 200, {"logs": self.job[1]}
            case "GET", ["api", "jobs", _]:
                return 200, {"status": self.job[0], "message": self.job[2]}
            case "POST", ["api", "v1", "applications", _, "deployments", "engine", "scale"]:
                return self.scale_answer
        return 404, {"error": "not found"}

    def _run(self, words: list[str]) -> None:
        self.jobs.append(words)
        order, *rest = words[3:]
        if self.job[0] != "SUCCEEDED":
            return
        if order == "down":
            self._ending += rest
            return
        settings = cluster_from_data(unpacked(rest[0]))
        for model in settings.models:
            self.add(model.title, wanted=model.replicas, **self.changed.get(model.title, {}))

    def close(self) -> None:
        self.stays_open.set()
        self._server.shutdown()
        self._server.server_close()


def _application(name: str, found: dict[str, Any]) -> dict[str, Any]:
    states = ["RUNNING"] * found["running"] + ["STARTING"] * (found["wanted"] - found["running"])
    up = found["running"] >= found["wanted"]
    node = found.get("node", "10.0.0.2")
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "status": found.get("status", "RUNNING" if up else "DEPLOYING"),
        "message": "",
        "deployments": {
            "engine": {
                "name": "engine",
                "message": found.get("message", ""),
                "target_num_replicas": found["wanted"],
                "replicas": [
                    {"replica_id": f"r{at}", "state": state, "node_ip": node}
                    for at, state in enumerate(states)
                ],
            }
        },
    }


@contextlib.contextmanager
def serve_dashboard() -> Iterator[ServeDashboard]:
    dashboard = ServeDashboard()
    try:
        yield dashboard
    finally:
        dashboard.close()
