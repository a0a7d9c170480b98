"""The dashboard, the alert rules and the scrape configuration, with a real Prometheus where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings
from sage_inference.monitoring.dashboard import dashboard
from sage_inference.monitoring.scrape import alerts, scrape
from tests.support.inprocess import InProcess, gateway
from tests.support.prometheus import program, samples
from tests.support.rogue import Answer, RogueEngine, ok, raw, sse
from tests.support.wire import Caller, post

DELTA = json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]})
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}})
STREAM: Answer = raw(sse(DELTA, DELTA, DELTA, USAGE, "[DONE]") + b"0\r\n\r\n")
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5]}
EMBEDDED = {
    "object": "list",
    "model": "e",
    "data": [VECTOR],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}
# Without a GPU, an engine that caches, a caller who leaves, a failure or a queue, these have no data.
NO_DATA = ("sage_gpu_", "sage_queue_wait", 'kind="cached"', "sage_prompt_tokens", "sage_embedding_cached")


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def exposed(page: str) -> set[str]:
    return set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))


@contextmanager
def busy_gateway() -> Iterator[InProcess]:
    """A gateway that has served streams and embeddings, and has a key."""
    llm, embedder = RogueEngine(STREAM), RogueEngine(ok(json.dumps(EMBEDDED)), model="e")
    instances = (
        InstanceSettings(url=llm.url, name="llm", kind="llm"),
        InstanceSettings(url=embedder.url, name="embedder", kind="embedding"),
    )
    with (
        llm,
        embedder,
        gateway(*instances, api_keys=(ApiKeySettings(name="ada", key=Secret("secret")),)) as door,
    ):
        serve(door)
        yield door


def serve(door: InProcess) -> None:
    key = "authorization: Bearer secret"
    with Caller(door.port) as caller:
        for _ in range(64):  # two of them have their gaps measured
            assert caller.chat(key, stream=True).reply().status == 200
        assert caller.chat(key, model="nope").reply().status == 404
        body = json.dumps({"model": "e", "input": ["one"]}).encode()
        assert caller.send(post("/v1/embeddings", body, key)).reply().status == 200


def page_of(door: InProcess) -> str:
    request = urllib.request.Request(f"{door.url}/metrics", headers={"authorization": "Bearer secret"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    with busy_gateway() as door:
        families = exposed(page_of(door))
    asked = set(re.findall(r"sage_\w+", " ".join(expressions()) + alerts()))
    asked -= {f"sage_{word}" for word in ("inference",)}
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= families


def test_panels_neither_overlap_nor_share_an_id() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not places & cells, panel["title"]
        places |= cells


@pytest.mark.parametrize(
    ("host", "target"),
    [("127.0.0.1", "127.0.0.1:8000"), ("0.0.0.0", "127.0.0.1:8000"), ("::", "[::1]:8000")],  # noqa: S104
)
def test_the_scrape_configuration_is_yaml_and_holds_no_key(host: str, target: str) -> None:
    [job] = yaml.safe_load(scrape(host, 8000, is_https=True, needs_key=True))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [target]}]
    assert job["scheme"] == "https"
    assert job["authorization"].keys() == {"credentials_file"}
    [plain] = yaml.safe_load(scrape(host, 8000, is_https=False, needs_key=False))["scrape_configs"]
    assert plain.keys() & {"authorization", "tls_config"} == set()


def test_promtool_accepts_the_page_of_metrics() -> None:
    promtool = program("promtool")
    with busy_gateway() as door:
        page = page_of(door)
    checked = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert samples(page)


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    promtool = program("promtool")
    (tmp_path / "alerts.yml").write_text(alerts())
    shutil.copy(Path(__file__).parent / "rules_test.yml", tmp_path)
    tested = subprocess.run(
        [promtool, "test", "rules", "rules_test.yml"], cwd=tmp_path, text=True, capture_output=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    names = set(re.findall(r"alert: (\w+)", alerts()))
    assert names == set(re.findall(r"alertname: (\w+)", (tmp_path / "rules_test.yml").read_text()))


class Prometheus:
    """A real one that scrapes a gateway ten times a second."""

    def __init__(self, directory: Path, door: InProcess) -> None:
        config = yaml.safe_load(scrape("127.0.0.1", door.port, is_https=False, needs_key=True))
        [job] = config["scrape_configs"]
        job["scrape_interval"] = "200ms"
        (directory / "key").write_text("secret")
        job["authorization"]["credentials_file"] = str(directory / "key")
        (directory / "alerts.yml").write_text(alerts())
        config["rule_files"] = ["alerts.yml"]
        config["global"] = {"evaluation_interval": "1s"}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._log = (directory / "log").open("w")
        self.process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--log.format=json",
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self.url = self._address(directory / "log")

    def _address(self, log: Path) -> str:
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            found = re.search(r'"address":"(127[.0-9]+:[1-9]\d*)"', log.read_text())
            if found and self._is_ready(f"http://{found[1]}"):
                return f"http://{found[1]}"
            time.sleep(0.02)
        raise AssertionError(log.read_text())

    @staticmethod
    def _is_ready(url: str) -> bool:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=20) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False

    def ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=20
        ) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()


def test_a_real_prometheus_answers_every_query_of_the_dashboard(tmp_path: Path) -> None:
    program("prometheus")
    with busy_gateway() as door:
        prometheus = Prometheus(tmp_path, door)
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                serve(door)
                if prometheus.values("sum(rate(sage_requests_total[30s])) > 0"):
                    break
            [target] = prometheus.ask("targets")["activeTargets"]
            assert target["health"] == "up", target["lastError"]
            assert len(prometheus.ask("rules")["groups"][0]["rules"]) == alerts().count("alert: ")
            engines = {each["metric"]["instance"] for each in prometheus.values("sage_instance_ready")}
            assert engines == {"llm", "embedder"}
            without = [each for each in expressions() if not prometheus.values(filled(each))]
        finally:
            prometheus.stop()
    assert [each for each in without if not any(part in each for part in NO_DATA)] == []


def filled(expression: str) -> str:
    """The expression as Grafana sends it."""
    for variable, value in {
        "$instance": ".*",
        "$model": ".*",
        "$__rate_interval": "30s",
        "$__range": "1m",
    }.items():
        expression = expression.replace(variable, value)
    return expression


def test_the_rules_are_in_the_package() -> None:
    assert (files("sage_inference.monitoring") / "alerts.yml").is_file()
