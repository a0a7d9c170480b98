"""``cluster`` before a stand-in for Ray's dashboard: its orders, its answers, and its errors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.cluster import dashboard as asking
from sage_inference.cli.main import main
from sage_inference.cli.schemas import ANSWERS, ERROR
from sage_inference.config.cluster_file import cluster_from_data, unpacked
from tests.cli.shape import mistakes
from tests.support.gateway import free_port
from tests.support.ray_cluster import recorded
from tests.support.serve_dashboard import ServeDashboard, serve_dashboard

FILE = "models:\n  - {model: Qwen/Qwen2.5-7B-Instruct, replicas: 4}\n  - {model: BAAI/bge-m3, engine: tei, gpus: 0.5}\n"
LACK = (
    "Deployment 'engine' in application 'sage-engines.bge-m3' has 1 replicas that have taken more than 30s to be "
    "scheduled. This may be due to waiting for the cluster to auto-scale or for a runtime environment to be "
    'installed. Resources required for each replica: {"CPU": 0, "GPU": 0.5}, total resources available: '
    '{"CPU": 4.0}. Use `ray status` for more details.'
)
CRASHED = (
    'The deployment failed to start 3 times in a row. Error:\\nray::initialize_and_get_metadata()\\n  File "x.py", '
    "line 5\\nsage_inference.cluster.process.ReplicaError: engine bge-m3 on gpu2: text-embeddings-router is neither "
    "beside this Python nor in PATH"
)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ServeDashboard]:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path))
    monkeypatch.setattr("sage_inference.cli.cluster.up._SETTLED_S", 0.05)
    with serve_dashboard() as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "models.yaml"
    path.write_text(FILE)
    return str(path)


def run(*words: str) -> int:
    return main(["inference", "cluster", *words], program="sage")


def asked(capsys: pytest.CaptureFixture[str], command: str, *words: str, status: int = 0) -> Any:
    assert run(command, *words, "--json") == status
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    schema = ERROR if "error" in found else ANSWERS[f"cluster {command}"]
    assert mistakes(found, schema) == []
    return found


def test_up_deploys_by_a_job_and_never_by_put(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("up", file, "--head", ray.url) == 0
    [words] = ray.jobs
    assert words[:4] == ["python3", "-m", "sage_inference.cluster", "up"]
    sent = cluster_from_data(unpacked(words[4]))
    assert [(model.title, model.replicas, model.gpus) for model in sent.models] == [
        ("qwen2.5-7b-instruct", 4, 1),
        ("bge-m3", 1, 0.5),
    ]
    assert {method for method, _ in ray.asked} == {"GET", "POST"}
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()] == [
        ["MODEL", "STATE", "READY", "NODES"],
        ["bge-m3", "RUNNING", "1", "of", "1", "10.0.0.2"],
        ["qwen2.5-7b-instruct", "RUNNING", "4", "of", "4", "10.0.0.2", "(4)"],
    ]


def test_up_waits_and_shows_what_it_waits_for(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_inference.cli.terminal.PROGRESS_AFTER_S", 0.0)
    ray.changed["bge-m3"] = {"running": 0}
    looks = 0

    def document() -> dict[str, Any]:
        nonlocal looks
        looks += bool(ray.jobs)
        if looks == 3:
            ray.add("bge-m3")
        return ServeDashboard.document(ray)

    monkeypatch.setattr(ray, "document", document)
    answer = asked(capsys, "up", file, "--head", ray.url)
    assert looks >= 3
    assert [(model["name"], model["running"]) for model in answer["models"]] == [
        ("bge-m3", 1),
        ("qwen2.5-7b-instruct", 4),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"running": 0, "message": LACK},
            "bge-m3: no machine has room for 1 of its replicas, each of which needs 0.5 GPU where the cluster has 0 free",
        ),
        (
            {"running": 0, "status": "DEPLOY_FAILED", "message": CRASHED},
            "engine bge-m3 on gpu2: text-embeddings-router is neither beside this Python nor in PATH",
        ),
        (
            {
                "running": 0,
                "status": "DEPLOY_FAILED",
                "message": "ModuleNotFoundError: No module named 'sage_inference'",
            },
            "a machine of the cluster has no sage-inference in Ray's Python; install it on each of them",
        ),
        ({"running": 0, "status": "UNHEALTHY"}, "bge-m3 is UNHEALTHY"),
    ],
    ids=["no room", "engine failed", "not installed", "no reason"],
)
def test_up_ends_with_the_reason_why_a_model_does_not_come_up(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], said: str
) -> None:
    ray.changed["bge-m3"] = changed
    answer = asked(capsys, "up", file, "--head", ray.url, status=1)
    assert answer["error"]["message"] == said
    assert answer["error"]["code"] == "not_up"


@pytest.mark.parametrize(
    ("log", "message", "said"),
    [
        (
            "/usr/bin/python3: No module named sage_inference\n",
            "exit code 1",
            "python3 on Ray's head has no sage-inference",
        ),
        ("/bin/sh: 1: python3: not found\n", "exit code 127", "Ray's head has no python3"),
        ("sage-inference: No module named 'ray'\n", "", "python3 on Ray's head has no Ray"),
        (
            "noise\nsage-inference: ValueError: broken\nmore\n",
            "",
            "the job on Ray's head failed: ValueError: broken",
        ),
        ("", "runtime env setup failed", "the job on Ray's head failed: runtime env setup failed"),
        ("", "", "the job on Ray's head failed: it gave no reason"),
    ],
)
def test_a_job_that_fails_is_explained(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str], log: str, message: str, said: str
) -> None:
    ray.job = ("FAILED", log, message)
    assert asked(capsys, "up", file, "--head", ray.url, status=1)["error"]["message"] == said


def test_replicas_without_ports_are_a_failure(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.shows_ports = False
    error = asked(capsys, "up", file, "--head", ray.url, status=1)["error"]
    assert "no gateway finds it" in error["message"]
    assert "RAY_SERVE_ENABLE_DIRECT_INGRESS=1" in error["hint"]


def test_up_names_models_that_the_file_lacks_and_a_serve_that_others_started(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.add("old")
    ray.host = "127.0.0.1"
    assert run("up", file, "--head", ray.url) == 0
    shown = capsys.readouterr().err
    assert "not in the file, and still there: old" in shown
    assert "Serve was started before, and listens on 127.0.0.1" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: []\n", ":1:9: models is empty"),
        (
            "models:\n  - {model: a/b, gpu: 1}\n",
            ":2:18: unknown key models[0].gpu; did you mean models[0].gpus?",
        ),
        (
            "models:\n  - {model: a/b, gpus: 1.5}\n",
            ":2:24: models[0].gpus is 1.5, and Ray divides one GPU only",
        ),
        ("models:\n  - {model: a/b}\n  - {model: c/b}\n", ":3:5: models[1] and models[0] are both named b"),
        ("api_key: secret\nmodels: [{model: a/b}]\n", ":1:10: api_key is written out"),
        ("models:\n  - {model: a/b, env: {MY_TOKEN: x}}\n", ":2:23: models[0].env.MY_TOKEN is written out"),
        ("models:\n  - {model: a/b, node_resources: {GPU: 1}}\n", ":2:34: models[0].node_resources.GPU is 1"),
        ("models:\n  - {model: a/b, engine: command}\n", ":2:5: models[0].command is missing"),
        (
            "models:\n  - {model: a/b, program: /opt/vllm}\n",
            ":2:27: models[0].program is set, and engine is auto",
        ),
        (
            "models:\n  - {model: a/b, engine: tei, gpus: 2}\n",
            ":2:37: models[0].gpus is 2, and engine tei uses one",
        ),
        ("models:\n  - {model: a/b, replicas: many}\n", ":2:28: models[0].replicas must be a whole number"),
        ("models: {a: b}\n", ":1:9: models must be a list"),
        ("", ": the file is empty"),
        ("a: [\n", ":2:1: not YAML"),
    ],
)
def test_a_mistake_in_the_file_is_shown_at_its_place(
    ray: ServeDashboard, file: str, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    Path(file).write_text(text)
    answer = asked(capsys, "up", file, "--head", ray.url, status=1)
    assert answer["error"]["message"].startswith(f"{file}{said}")
    assert ray.asked == []


def test_status_has_an_exit_code_for_each_state(
    ray: ServeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--head", ray.url)
    assert asked(capsys, "status", *where, status=3)["models"] == []
    ray.applications["other"] = {"wanted": 1, "running": 1}
    assert asked(capsys, "status", *where, status=3)["models"] == []
    ray.add("bge-m3", wanted=2)
    [model] = asked(capsys, "status", *where)["models"]
    assert (model["name"], model["state"], model["wanted"], model["running"]) == ("bge-m3", "RUNNING", 2, 2)
    assert model["replicas"][0] == {"id": "r0", "state": "RUNNING", "node": "10.0.0.2"}
    ray.add("bge-m3", wanted=2, running=1, message=LACK)
    assert run("status", *where) == 1
    assert "no machine has room for 1 of its replicas" in capsys.readouterr().err
    nobody = f"http://127.0.0.1:{free_port()}"
    error = asked(capsys, "status", "--head", nobody, status=4)["error"]
    assert error["message"] == f"{nobody} cannot be asked: connection refused"


def test_status_reads_documents_that_ray_wrote(
    ray: ServeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nothing", "running", "deploy_failed", "two_applications", "scaled_to_zero", "haproxy"):
        body = recorded(name)
        ray.script = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        assert run("status", "--head", ray.url) in (0, 1, 3), name
        assert "Traceback" not in capsys.readouterr().err


def test_scale_asks_serve_and_explains_its_refusals(
    ray: ServeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.add("bge-m3", wanted=2)
    where = ("--head", ray.url)
    assert asked(capsys, "scale", "bge-m3", "6", *where) == {
        "schema": 1, "model": "bge-m3", "before": 2, "wanted": 6,
    }  # fmt: skip
    assert ray.asked[-1] == ("POST", "/api/v1/applications/sage-engines.bge-m3/deployments/engine/scale")
    ray.scale_answer = (412, {"error": "external scaler is not enabled"})
    error = asked(capsys, "scale", "bge-m3", "6", *where, status=1)["error"]
    assert error["message"] == "Ray does not scale bge-m3 (412): external scaler is not enabled"
    error = asked(capsys, "scale", "bge", "6", *where, status=1)["error"]
    assert (error["code"], error["hint"]) == ("unknown_model", "one of bge-m3")
    assert asked(capsys, "scale", "bge-m3", "1001", *where, status=2)["error"]["code"] == "usage"


def test_down_ends_what_it_names_and_nothing_else(
    ray: ServeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        ray.add(name)
    ray.applications["other"] = {"wanted": 1, "running": 1}
    where = ("--head", ray.url)
    ray.ends_after = 2
    assert asked(capsys, "down", "b", *where)["ended"] == ["b"]
    assert ray.ends_after == 0
    assert "sage-engines.b" not in ray.applications
    assert asked(capsys, "down", *where, "--python", "/opt/ray/bin/python")["ended"] == ["a", "c"]
    assert asked(capsys, "down", *where)["ended"] == []
    assert list(ray.applications) == ["other"]
    assert [words[0] for words in ray.jobs] == ["python3", "/opt/ray/bin/python"]
    assert ray.jobs[0][3:] == ["down", "sage-engines.b"]
    assert asked(capsys, "down", "b", *where, status=1)["error"]["code"] == "unknown_model"


def test_a_token_is_sent_and_never_shown(
    ray: ServeDashboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.token = "very-secret-token"
    ray.add("a")
    error = asked(capsys, "status", "--head", ray.url, status=1)["error"]
    assert error["message"] == f"{ray.url} asks for a token"
    monkeypatch.setenv("RAY_TOKEN", "wrong-secret")
    assert run("status", "--head", ray.url, "--token", "env:RAY_TOKEN") == 1
    shown = capsys.readouterr()
    assert "refuses the token" in shown.err
    assert "wrong-secret" not in shown.out + shown.err
    monkeypatch.setenv("RAY_TOKEN", ray.token)
    assert run("status", "--head", ray.url, "--token", "env:RAY_TOKEN") == 0
    assert run("status", "--head", ray.url, "--token", "env:NOT_SET") == 1
    assert run("status", "--head", ray.url, "--token", "two words") == 2


def _sent(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n".encode()
        + body
    )


HOSTILE = {
    "nothing": b"",
    "no HTTP": b"hello\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncont",
    "cut off": _sent(b"{", length=500),
    "no JSON": _sent(b"<html>"),
    "a list": _sent(b"[]"),
    "deep": _sent(b"[" * 100_000),
    "applications as text": _sent(b'{"applications": "x"}'),
    "odd parts": _sent(
        b'{"applications": {"sage-engines.x": 7, "sage-engines.y": {"deployments": [1], "status": 5},'
        b' "sage-engines.\\u001b[31m": {"deployments": {"engine": {"replicas": [1, {}], "target_num_replicas": -3}}}},'
        b' "target_groups": [1, {"targets": 5}, {"targets": [1]}], "http_options": []}'
    ),
    "500": _sent(b"oh\x1b[31mno", "500 Internal Server Error"),
    "404": _sent(b"", "404 Not Found"),
    "elsewhere": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "bad chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000,
    "too large": b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (33 << 20),
}


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("command", ["status", "down", "scale"])
def test_no_answer_ends_in_a_traceback(
    ray: ServeDashboard, capsys: pytest.CaptureFixture[str], command: str, script: bytes
) -> None:
    ray.script = script
    words = ("absent", "3") if command == "scale" else ()
    assert run(command, *words, "--head", ray.url) in (1, 3, 4)
    shown = capsys.readouterr()
    assert "unexpected" not in shown.err
    assert "\x1b[31m" not in shown.out + shown.err


@pytest.mark.parametrize(
    "script", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"], ids=["silent", "stuck"]
)
def test_a_silent_dashboard_is_left_after_a_while(
    ray: ServeDashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: bytes
) -> None:
    monkeypatch.setattr(asking, "QUESTION_S", 0.3)
    ray.script, ray.then_silent = script, True
    began = time.monotonic()
    error = asked(capsys, "status", "--head", ray.url, status=4)["error"]
    assert error["message"] == f"{ray.url} did not answer within 0.3 s"
    assert time.monotonic() - began < 5


def test_a_dashboard_that_is_silent_for_a_while_is_asked_again(
    ray: ServeDashboard, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 3

    def document() -> dict[str, Any]:
        nonlocal left
        if ray.jobs and left:
            left -= 1
            raise ConnectionError  # the connection breaks off
        return ServeDashboard.document(ray)

    monkeypatch.setattr(ray, "document", document)
    assert run("up", file, "--head", ray.url) == 0
    assert left == 0


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--head", "gpu1:8265"],
        ["status", "--head", "http://user:pass@gpu1"],
        ["status", "--head", "http://gpu1/path?x"],
        ["status", "--application", "a b"],
        ["scale", "x"],
        ["scale", "x", "-1"],
        ["up"],
        ["sideways"],
    ],
)
def test_a_wrong_command_line_is_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run(*words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "pass" not in shown.replace("password", "")
