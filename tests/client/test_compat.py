"""The clients of older programs: the same, under older names and with older arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sage_inference as si
from tests.support.gateway import free_port
from tests.support.simulators import SimulatedEngine


@pytest.mark.parametrize("kind", [si.IntelligentLLMClient, si.LLMClientAdapter])
def test_llm_clients_take_model_url_and_key(
    kind: type[si.IntelligentLLMClient], vllm: SimulatedEngine
) -> None:
    with kind("simulated-llm", f"{vllm.url}/v1", "k") as client:
        assert isinstance(client, si.UnifiedInferenceClient)
        assert (client.model_name, client.base_url, client.api_key) == ("simulated-llm", vllm.url, "k")
        assert client.chat("hi", max_tokens=1)
        with pytest.raises(si.NoServerFoundError):
            client.embed("a")


@pytest.mark.parametrize("kind", [si.IntelligentEmbeddingClient, si.EmbeddingClientAdapter])
def test_embedding_clients_take_url_model_and_key(
    kind: type[si.IntelligentEmbeddingClient], tei: SimulatedEngine
) -> None:
    with kind(tei.url, "simulated-embedding", "k") as client:
        assert (client.model, client.base_url, client.api_key) == ("simulated-embedding", tei.url, "k")
        assert len(client.embed(["a", "b"])) == 2


def test_create_auto_looks_for_one_kind_only(vllm: SimulatedEngine, tei: SimulatedEngine) -> None:
    ports = {"llm_ports": (vllm.port,), "embedding_ports": (tei.port,)}
    with si.IntelligentLLMClient.create_auto(**ports) as llm:  # type: ignore[arg-type]
        assert llm.base_url == vllm.url
        assert not llm.is_embedding_available()
    with si.IntelligentEmbeddingClient.create_auto(**ports) as embedding:  # type: ignore[arg-type]
        assert embedding.base_url == tei.url
    with pytest.raises(si.NoServerFoundError):
        si.IntelligentLLMClient.create_auto(llm_ports=(tei.port,), embedding_ports=(tei.port,))


def test_get_instance_makes_the_kind_it_is_asked_of(vllm: SimulatedEngine) -> None:
    try:
        client = si.IntelligentLLMClient.get_instance(llm_ports=(vllm.port,))
        assert isinstance(client, si.IntelligentLLMClient)
        assert si.IntelligentLLMClient.get_instance() is client
    finally:
        si.UnifiedInferenceClient.clear_instances()


def test_functions_make_the_adapters(vllm: SimulatedEngine, tei: SimulatedEngine) -> None:
    with si.create_llm_client_compat("simulated-llm", vllm.url) as llm:
        assert isinstance(llm, si.LLMClientAdapter)
    with si.create_llm_client_compat(llm_ports=(vllm.port,)) as found:
        assert found.base_url == vllm.url
    with si.create_embedding_client_compat(tei.url) as api:
        assert (api.mode, len(api.embed(["a"]))) == ("api", 1)
    with si.create_embedding_client_compat(llm_ports=(), embedding_ports=(tei.port,)) as auto:
        assert (auto.mode, auto.base_url) == ("api", tei.url)
    with si.EmbeddingClientAdapter.create_api(tei.url, "simulated-embedding") as made:
        assert made.model == "simulated-embedding"
    with pytest.raises(ValueError, match="mode must be api or embedded"):
        si.EmbeddingClientAdapter(mode="cloud")  # type: ignore[arg-type]


# A package of the extra's name, standing in for hundreds of megabytes: the adapter's side of it is real.
PACKAGE = """
import numpy as np

class SentenceTransformer:
    def __init__(self, name):
        self.name = name

    def encode(self, texts, convert_to_numpy):
        return np.array([[len(text), 0.5] for text in texts], dtype=np.float32)
"""


def test_embedded_mode_computes_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sentence_transformers.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with si.create_embedding_client_compat(
            model="local", llm_ports=(), embedding_ports=(free_port(),)
        ) as client:
            assert (client.mode, client.model_name) == ("embedded", "local")
            assert client.is_embedding_available()
            assert client.embed("abc") == [3.0, 0.5]
            assert client.embed(["a", "bc"], as_numpy=True).tolist() == [[1.0, 0.5], [2.0, 0.5]]
            assert client.embed(["a"], return_result=True).content == [[1.0, 0.5]]
    finally:
        sys.modules.pop("sentence_transformers", None)


def test_embedded_mode_without_its_extra_names_it() -> None:
    with si.create_embedding_client_compat(mode="embedded") as client:
        with pytest.raises(ImportError, match=r"sage-inference\[embedded\]"):
            client.embed("a")
    with pytest.raises(si.NoServerFoundError):
        si.create_embedding_client_compat(llm_ports=(), embedding_ports=(free_port(),))
