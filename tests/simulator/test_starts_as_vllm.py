"""A simulated vLLM starts, fails and dies as the recorded one: log, children, socket, exit status."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest

from sage_inference.simulator.starting.failures_printed import VLLM_FAILURES, Point
from tests.simulator import shapes
from tests.support.gateway import free_port
from tests.support.starts import client, started

READY = "Application startup complete."


def serve(tmp_path: Path, *options: str) -> tuple[str, ...]:
    return ("serve", "/models/qwen", "--uds", str(tmp_path / "s"), "--served-model-name", "qwen", *options)


def test_phases_are_printed_in_vllms_order_and_the_model_answers(tmp_path: Path) -> None:
    with started("vllm-serve", *serve(tmp_path), log=tmp_path / "log") as engine:
        engine.wait_for(READY)
        with client(uds=str(tmp_path / "s")) as http:
            assert http.get("/health").status_code == 200
            assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["qwen"]
            asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
            answer = http.post("/v1/chat/completions", json=asked).json()
            assert answer["usage"]["completion_tokens"] == 1
        text = engine.text
        lines = engine.lines
        times = [one.cpu_times() for one in engine.members()]
        assert engine.stop() == 0
    assert sum(one.user + one.system for one in times) < 1  # 0.25 s
    phases = (
        "version 0.32.0",
        "non-default args: {",
        "Resolved architecture:",
        "Initializing a V1 LLM engine",
        "Starting to load model",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2",
        "Loading weights took",
        "Model loading took 14.32 GiB memory",
        "torch.compile took",
        "Available KV cache memory",
        "GPU KV cache size",
        "Capturing CUDA graphs (FULL):  17%",
        "Graph capturing finished",
        "init engine (profile, create kv cache, warmup model) took",
        f"Starting vLLM server on unix:{tmp_path / 's'}",
        READY,
    )
    found = [next(i for i, line in enumerate(lines) if phase in line) for phase in phases]
    assert found == sorted(found)
    assert "\rCapturing CUDA graphs (FULL):   5%" in text
    assert "\n\rLoading safetensors checkpoint shards: 100% Completed | 2/2" in text
    assert not engine.members()


def test_port_is_bound_and_refuses_until_the_engine_is_ready(tmp_path: Path) -> None:
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--load-seconds", "1")
    with started("vllm-serve", "serve", "m", *options, log=tmp_path / "log") as engine:
        engine.wait_for("Starting to load model")
        with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        engine.wait_for(READY)
        assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200


def test_core_outlives_a_sigkill_of_the_api_server_and_frees_its_port(tmp_path: Path) -> None:
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--tensor-parallel-size", "2")
    with started("vllm-serve", "serve", "m", *options, log=tmp_path / "log") as engine:
        engine.wait_for(READY)
        engine.process.kill()
        engine.wait()
        names = sorted(one.name() for one in engine.members())
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
        engine.named("VLLM::EngineCore").kill()
        engine.wait_gone()  # the workers end with it
    assert names == ["VLLM::EngineCor", "VLLM::Worker_TP", "VLLM::Worker_TP"]


def test_death_of_the_core_ends_a_ready_server_with_status_0(tmp_path: Path) -> None:
    with started("vllm-serve", *serve(tmp_path), log=tmp_path / "log") as engine:
        engine.wait_for(READY)
        engine.named("VLLM::EngineCore").kill()
        assert engine.wait() == 0
        assert "EngineDeadError" in engine.text
        assert engine.lines[-1].startswith("INFO:     Finished server process")


def test_requests_under_way_get_the_recorded_error_when_the_core_dies(tmp_path: Path) -> None:
    recorded = shapes.recorded("vllm", "072_engine_core_killed")
    asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5000, "ignore_eos": True}
    found: list[httpx.Response] = []
    with started("vllm-serve", *serve(tmp_path), log=tmp_path / "log") as engine:
        engine.wait_for(READY)
        with client(uds=str(tmp_path / "s")) as http, client(uds=str(tmp_path / "s")) as other:
            plain = threading.Thread(
                target=lambda: found.append(other.post("/v1/chat/completions", json=asked))
            )
            plain.start()
            with http.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as stream:
                lines = stream.iter_lines()
                next(lines)
                engine.named("VLLM::EngineCore").kill()
                rest = [line for line in lines if line]
            plain.join()
        assert engine.wait() == 0
    assert [f"{line}\n\n" for line in rest[-2:]] == recorded["stream_last_chunks"][-2:]
    assert [found[0].status_code, found[0].text] == recorded["plain_in_flight"]


def test_sigterm_while_it_loads_ends_it_and_its_core(tmp_path: Path) -> None:
    with started("vllm-serve", *serve(tmp_path, "--load-seconds", "3"), log=tmp_path / "log") as engine:
        engine.wait_for("Starting to load model")
        assert engine.stop() == -signal.SIGINT  # Python's end after an unhandled KeyboardInterrupt
        assert not engine.members()


def test_sigterm_while_it_loads_may_be_lost(tmp_path: Path) -> None:
    options = serve(tmp_path, "--load-seconds", "1", "--deaf-while-loading")
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        engine.wait_for("Starting to load model")
        engine.process.terminate()
        engine.wait_for(READY)
        assert engine.stop() == 0


def test_socket_file_of_an_earlier_start_is_an_address_in_use(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    with started("vllm-serve", *serve(tmp_path), log=tmp_path / "log") as engine:
        assert engine.wait() == 1
        assert engine.lines[-1] == "OSError: [Errno 98] Address already in use"


def test_key_from_the_environment_is_required_and_not_printed_as_the_arguments_are(tmp_path: Path) -> None:
    options = ("--enable-prefix-caching", "--seed", "7", "--compilation-config={}")
    environ = {"VLLM_API_KEY": "sk-secret"}
    with started("vllm-serve", *serve(tmp_path, *options), log=tmp_path / "log", environ=environ) as engine:
        engine.wait_for(READY)
        with client(uds=str(tmp_path / "s")) as http:
            assert http.get("/v1/models").status_code == 401
            right = http.get("/v1/models", headers={"Authorization": "Bearer sk-secret"})
        assert right.status_code == 200
        assert "sk-secret" not in engine.text
        shown = next(line for line in engine.lines if "non-default args" in line)
    assert "'enable_prefix_caching': True" in shown
    assert "'seed': '7'" in shown
    assert "'compilation_config': '{}'" in shown


FAILURES = (
    "unrecognized_arguments",
    "sleep_unsupported",
    "port_taken",
    "gpu_memory_taken",
    "no_weights",
    "ninja_missing",
    "no_cache_blocks",
    "out_of_memory_in_capture",
    "oom_killed",
    "segmentation_fault",
)


def test_a_failure_of_each_point_is_checked_here() -> None:
    missing = {one.point for one in VLLM_FAILURES.values()} - {VLLM_FAILURES[name].point for name in FAILURES}
    assert missing == {Point.READY}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_prints_its_cause_first_and_ends_as_vllm_does(name: str, tmp_path: Path) -> None:
    failure = VLLM_FAILURES[name]
    options = ("--fail-with", name, "--enable-sleep-mode")
    with started("vllm-serve", *serve(tmp_path, *options), log=tmp_path / "log") as engine:
        status = engine.wait()
        text = engine.text
        engine.wait_gone()
    # A core that a signal ended makes the API server fail; only SIGKILL takes both here.
    killed = failure.signal == signal.SIGKILL
    assert status == (-failure.signal if killed else failure.status)
    words = failure.error.partition(": ")[2] or failure.error
    assert words.split("\n")[0] in text
    if failure.point in (Point.BOOT, Point.LOAD, Point.COMPILE, Point.CACHE, Point.CAPTURE) and not killed:
        assert "RuntimeError: Engine core initialization failed. See root cause above." in text


def test_a_retry_with_the_change_that_mends_it_starts(tmp_path: Path) -> None:
    options = serve(tmp_path, "--fail-with", "length_does_not_fit", "--max-model-len", "28672")
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        engine.wait_for(READY)


def test_the_number_of_failing_starts_is_counted_down(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("1")
    options = serve(tmp_path, "--fail-with", "profiling_race", "--fail-starts", str(left))
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        assert engine.wait() == 1
    (tmp_path / "s").unlink()
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        engine.wait_for(READY)
    assert left.read_text() == "0"


def test_cause_of_a_failed_worker_stands_before_the_cores_error(tmp_path: Path) -> None:
    options = serve(tmp_path, "--tensor-parallel-size", "2", "--fail-with", "out_of_memory")
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        assert engine.wait() == 1
        errors = [line for line in engine.lines if " ERROR " in line]
        engine.wait_gone()
    assert errors[0].startswith("(Worker_TP0 pid=")
    assert "CUDA out of memory" in errors[3]
    assert "WorkerProc initialization failed due to an exception in a background process." in errors[-1]


def test_compilation_of_a_pooling_model_interrupts_the_line_of_the_graphs(tmp_path: Path) -> None:
    options = serve(tmp_path, "--runner", "pooling")
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        engine.wait_for(READY)
        text = engine.text
        with client(uds=str(tmp_path / "s")) as http:
            vectors = http.post("/v1/embeddings", json={"input": "a", "model": "qwen"}).json()["data"]
    assert len(vectors[0]["embedding"]) == 384
    assert "| 0/51 [00:00<?, ?it/s](EngineCore pid=" in text
    assert "KV cache" not in text


@pytest.mark.parametrize("status", [7, -11])
def test_ready_engine_ends_with_the_given_status(status: int, tmp_path: Path) -> None:
    options = serve(tmp_path, f"--exit-status={status}", "--after", "0.1")
    with started("vllm-serve", *options, log=tmp_path / "log") as engine:
        assert engine.wait() == status
        assert READY in engine.text
