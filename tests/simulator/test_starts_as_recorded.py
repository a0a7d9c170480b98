"""The lines of a simulated start are those of recorded starts, but for numbers and paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.gateway import free_port
from tests.support.starts import started

RECORDED = Path(__file__).parents[1] / "fixtures" / "engines" / "starts"
# Of a GPU with a real model: known from vLLM's source and from reports, not recorded here.
UNRECORDED = {
    "Time spent downloading weights for P: N seconds",
    "Available KV cache memory: N GiB",
    "GPU KV cache size: N tokens, Maximum concurrency for N tokens per request: Nx",
    "torch.compile took N s in total",
    "Resolved architecture: BertModel",
    "Route: P, Methods: GET",  # cut from the recordings
    "Route: P, Methods: POST",
}


def shapes(text: str) -> set[str]:
    found = set()
    for line in re.split(r"[\r\n]+|(?<=it/s\])(?=\()", text):
        line = re.sub(r"^\(\w+ pid=\d+\) ", "", line)
        line = re.sub(r"^(INFO|WARNING|ERROR) \d\d-\d\d [\d:]+ \[[\w.]+:\d+\] ?", "", line)
        line = re.sub(r"\|[ █▌▏▊▎▍▉▋]*\|", "|B|", line)
        line = re.sub(r"\[[\d:]+<[?\d:]+,\s+[?\d.]+(it/s|s/it)\]", "[PACE]", line)
        line = re.sub(
            r"(http://|unix:)?/?[\w.-]*(/[\w.-]+)+|http://[\d.:]+|[A-Z]+_(DIR|PACKAGES)[\w./-]*", "P", line
        )
        line = re.sub(r"-?\d[\d,.]*", "N", line)
        line = re.sub(r"non-default args: .*", "non-default args:", line)
        line = re.sub(r"(with config:|Successfully|distributed_init_method=|using cache ).*", r"\1", line)
        if line.strip():
            found.add(" ".join(line.split()))
    return found


def recorded(engine: str) -> set[str]:
    return set().union(*(shapes(path.read_bytes().decode()) for path in RECORDED.glob(f"{engine}_*.log")))


@pytest.mark.parametrize(
    "options", [("--max-model-len", "8192"), ("--runner", "pooling")], ids=["text", "pooling"]
)
def test_vllm(options: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ("serve", "org/model", "--uds", str(tmp_path / "s"), *options)
    with started("vllm-serve", *arguments, log=tmp_path / "log") as engine:
        engine.wait_for("Application startup complete.")
        engine.named("VLLM::EngineCore").kill()
        engine.wait()
        assert shapes(engine.text) - recorded("vllm") - UNRECORDED == set()


def test_llama_server(tmp_path: Path) -> None:
    arguments = ("-m", "/models/m.gguf", "--port", str(free_port()))
    with started("llama-server", *arguments, log=tmp_path / "log") as engine:
        engine.wait_for("llama_server: listening on")
        engine.stop()
        assert shapes(engine.text) - recorded("llama") == set()
