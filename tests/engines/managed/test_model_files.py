"""A model's kind, weights and place are read from its files, from the hub's cache, or from the hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed import hub
from sage_inference.engines.managed.download import Download
from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.model_files import ModelFacts, hub_cache_of, of_directory, of_files
from sage_inference.engines.managed.models import resolve

NAME = "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("architecture", "files", "kind"),
    [
        ("LlamaForCausalLM", [], "llm"),
        ("Qwen2_5_VLForConditionalGeneration", [], "llm"),
        ("GPT2LMHeadModel", [], "llm"),
        ("Qwen3ForCausalLM", ["modules.json"], "embedding"),
        ("BertModel", ["modules.json", "config_sentence_transformers.json"], "embedding"),
        ("XLMRobertaModel", [], "embedding"),
        ("ModernBertForMaskedLM", [], "embedding"),
        ("XLMRobertaForSequenceClassification", [], "reranker"),
        ("Qwen3ForSequenceClassification", ["modules.json"], "reranker"),
        ("WhisperSomething", [], None),
    ],
)
def test_kind_is_read_from_the_architecture_and_the_files_beside_it(
    architecture: str, files: list[str], kind: str | None
) -> None:
    assert of_files({"architectures": [architecture]}, dict.fromkeys(files, 1), {}).kind == kind


@pytest.mark.parametrize(
    ("sizes", "index", "weights"),
    [
        ({"model.safetensors": 7, "pytorch_model.bin": 9}, {}, 7),
        ({"a-1.safetensors": 7, "a-2.safetensors": 8}, {}, 15),
        ({"model.safetensors": 7}, {"metadata": {"total_size": 99}}, 99),
        ({"pytorch_model.bin": 9}, {}, 9),
        ({"onnx/model.safetensors": 9}, {}, None),
        ({"config.json": 1}, {"metadata": []}, None),
        ({"model.safetensors": 7}, {"metadata": {"total_size": "x"}}, 7),
    ],
)
def test_weights_are_those_of_the_format_that_is_loaded(
    sizes: dict[str, int], index: dict[str, Any], weights: int | None
) -> None:
    assert of_files({}, sizes, index).weights == weights


def test_float32_is_loaded_in_half_unless_it_is_quantized() -> None:
    sizes = {"model.safetensors": 100}
    assert of_files({"torch_dtype": "float32"}, sizes, {}).loaded() == 50
    assert of_files({"dtype": "torch.float32"}, sizes, {}).loaded() == 50
    assert of_files({"text_config": {"dtype": "float32"}}, sizes, {}).loaded() == 50
    assert of_files({"torch_dtype": "bfloat16"}, sizes, {}).loaded() == 100
    assert of_files({"torch_dtype": "float32", "quantization_config": {"bits": 4}}, sizes, {}).loaded() == 100
    assert ModelFacts().loaded() is None
    stored = of_files({"torch_dtype": "bfloat16"}, sizes, {})
    assert (stored.loaded("float32"), stored.loaded("float16"), stored.loaded(None, "fp8")) == (
        200,
        100,
        None,
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"architectures": 7}', "null", "[" * 5000, '{"num_attention_heads": "x"}']
)
def test_a_broken_config_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    facts = of_directory(tmp_path)
    assert (facts.kind, facts.weights) == (None, 4)
    assert of_directory(tmp_path / "no-such") == ModelFacts()


def cached(root: Path, *, weights: bool = True, revision: str = "main") -> Path:
    """A downloaded model in the hub's layout."""
    folder = root / f"models--{NAME.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text("abc123")
    (snapshot / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    index = {"metadata": {"total_size": 50}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "m-1.safetensors").write_bytes(b"1")
    if weights:
        (snapshot / "m-2.safetensors").write_bytes(b"2")
    return snapshot


def engine(model: str = NAME, **more: Any) -> ManagedEngineSettings:
    return ManagedEngineSettings(model=model, **more)


def test_a_downloaded_model_is_found_in_the_cache(tmp_path: Path) -> None:
    cached(tmp_path / "hub")
    found = resolve(engine(), {"HF_HOME": str(tmp_path)}, offline=True, token=None)
    assert (found.name, found.is_local, found.kind) == (NAME, False, "llm")
    assert (found.facts.weights, found.facts.commit) == (50, "abc123")
    assert found.download is None
    by_commit = resolve(
        engine(revision="abc123"), {"HF_HUB_CACHE": str(tmp_path / "hub")}, offline=True, token=None
    )
    assert by_commit.facts.weights == 50
    other = resolve(engine(revision="v2"), {"HF_HOME": str(tmp_path)}, offline=True, token=None)
    assert other.facts == ModelFacts()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hub_library_has_it(env: dict[str, str], expected: str) -> None:
    assert hub_cache_of(env) == Path(expected)


def test_settings_overrule_the_files_about_the_kind(tmp_path: Path) -> None:
    cached(tmp_path / "hub")
    found = resolve(engine(kind="embedding"), {"HF_HOME": str(tmp_path)}, offline=True, token=None)
    assert found.kind == "embedding"


class Hub:
    """A hub on loopback with one model, one gated model, and a search."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.content_type = "application/json; charset=utf-8"
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append((self.path, self.headers.get("authorization")))
                status, document = hub.answer(urlsplit(self.path).path)
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("content-type", hub.content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def env(self) -> dict[str, str]:
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}/", "HF_HOME": "/nowhere"}

    def answer(self, path: str) -> tuple[int, object]:
        large = {"sha256": "a" * 64, "size": 5000}
        files = [
            {"rfilename": "config.json", "size": 10},
            {"rfilename": "model.safetensors", "size": 5000, "lfs": large},
            {"rfilename": "pytorch_model.bin", "size": 9000, "lfs": {"sha256": "b" * 64, "size": 9000}},
            {"rfilename": "modules.json", "size": 10},
        ]
        about = {"sha": "c0ffee", "siblings": files, "config": {"architectures": ["BertModel"]}}
        return {
            "/api/models/org/good/revision/main": (200, about),
            "/api/models/org/good/revision/refs%2Fpr%2F1": (200, about | {"sha": "pr1"}),
            "/org/good/resolve/c0ffee/config.json": (
                200,
                {"architectures": ["BertModel"], "dtype": "float32"},
            ),
            "/api/models/org/gated/revision/main": (200, about | {"gated": "manual"}),
            "/api/models/org/broken/revision/main": (200, [1]),
            "/api/models/org/down/revision/main": (503, {}),
            "/api/models": (200, [{"id": "org/good"}, {"id": "other/unlike"}]),
        }.get(path, (401, {"error": "Invalid username or password."}))

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def a_hub() -> Iterator[Hub]:
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


def test_the_hub_is_asked_about_a_model_that_is_not_here(a_hub: Hub) -> None:
    found = resolve(engine("org/good"), a_hub.env, offline=False, token="hf_token")
    assert (found.kind, found.facts.weights, found.facts.loaded(), found.facts.commit) == (
        "embedding",
        5000,
        2500,
        "c0ffee",
    )
    assert {key for _, key in a_hub.asked} == {"Bearer hf_token"}
    download = Download.of({"download": found.download})
    assert download is not None
    assert (download.folder, download.size) == (Path("/nowhere/hub/models--org--good"), 5000)


def test_a_quantization_after_the_name_is_no_part_of_it(a_hub: Hub) -> None:
    found = resolve(engine("org/good:Q4_K_M"), a_hub.env, offline=False, token=None)
    assert (found.name, found.facts.commit) == ("org/good:Q4_K_M", "c0ffee")


def test_a_revision_is_asked_for(a_hub: Hub) -> None:
    found = resolve(engine("org/good", revision="refs/pr/1"), a_hub.env, offline=False, token=None)
    assert found.facts.commit == "pr1"


def test_a_gated_model_is_refused_before_the_start(a_hub: Hub) -> None:
    with pytest.raises(LaunchError) as caught:
        resolve(engine("org/gated"), a_hub.env, offline=False, token="hf_of_someone_else")
    assert caught.value.message == "org/gated needs an accepted license and a token"
    assert f"accept it at http://127.0.0.1:{a_hub.server.server_port}/org/gated" in (caught.value.hint or "")


def test_an_unknown_model_is_refused_with_a_near_name(a_hub: Hub) -> None:
    with pytest.raises(LaunchError) as caught:
        resolve(engine("org/goood"), a_hub.env, offline=False, token=None)
    assert caught.value.message == "the hub has no model org/goood, or does not show it to us"
    assert caught.value.hint == "did you mean org/good?; set managed.hf_token if it is private"


@pytest.mark.parametrize("model", ["org/broken", "org/down"])
def test_a_hub_that_answers_nothing_useful_is_no_error(a_hub: Hub, model: str) -> None:
    try:
        found = resolve(engine(model), a_hub.env, offline=False, token=None)
    except LaunchError:
        assert model == "org/broken"
        return
    assert (found.kind, found.facts) == ("llm", ModelFacts())


def test_a_proxy_that_answers_for_the_hub_does_not_make_a_model_unknown(a_hub: Hub) -> None:
    a_hub.content_type = "text/html"
    assert resolve(engine("org/goood"), a_hub.env, offline=False, token=None).facts == ModelFacts()


def test_a_hub_that_cannot_be_reached_is_no_error() -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nowhere"}
    found = resolve(engine(), env, offline=False, token=None)
    assert found.facts == ModelFacts()
    assert found.download == {"folder": "/nowhere/hub/models--Qwen--Qwen2.5-7B-Instruct", "files": {}}
    with pytest.raises(hub.HubError):
        hub.ask(NAME, None, {"HF_ENDPOINT": "not an address"}, None)


def test_offline_nobody_is_asked(a_hub: Hub) -> None:
    assert resolve(engine("org/good"), a_hub.env, offline=True, token=None).facts == ModelFacts()
    assert a_hub.asked == []


def test_a_download_that_was_broken_off_is_continued(tmp_path: Path, a_hub: Hub) -> None:
    cached(tmp_path / "hub", weights=False)
    env = a_hub.env | {"HF_HOME": str(tmp_path)}
    with pytest.raises(LaunchError):  # our hub does not have it
        resolve(engine(), env, offline=False, token=None)
    assert resolve(engine(), env, offline=True, token=None).facts.commit == "abc123"
