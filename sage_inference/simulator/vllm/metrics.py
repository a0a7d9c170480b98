"""The metrics of vLLM that a gateway or a dashboard reads, with vLLM's names and buckets."""

from __future__ import annotations

from collections import Counter

from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.llm import LLM, Observers
from sage_inference.simulator.metrics import Page
from sage_inference.simulator.vllm.sleep import Sleep

CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
_TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_E2E = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0)
_REASONS = ("stop", "length", "abort", "error", "repetition")


class VLLMMetrics:
    def __init__(self, model: str, block_size: int, kv_cache_tokens: int) -> None:
        self.page = Page({"engine": "0", "model_name": model})
        self.finished: Counter[str] = Counter()
        self._cache = {
            "block_size": str(block_size),
            "enable_prefix_caching": "True",
            "kv_cache_size_tokens": str(kv_cache_tokens),
            "num_gpu_blocks": str(kv_cache_tokens // block_size),
        }

    def observers(self) -> Observers:
        """Declare the histograms that a decoder feeds."""
        page = self.page
        ttft = page.histogram("vllm:time_to_first_token_seconds", "Time to first token in seconds.", _TTFT)
        itl = page.histogram("vllm:inter_token_latency_seconds", "Inter-token latency in seconds.", _ITL)
        steps = page.histogram("vllm:iteration_tokens_total", "Tokens per engine step.", _STEP_TOKENS)
        self.e2e = page.histogram("vllm:e2e_request_latency_seconds", "Request latency in seconds.", _E2E)
        self.prompts = page.histogram("vllm:request_prompt_tokens", "Prompt tokens a request.", _TOKENS)
        self.outputs = page.histogram("vllm:request_generation_tokens", "New tokens a request.", _TOKENS)
        return Observers(ttft.observe, itl.observe, steps.observe)

    def watch(self, llm: LLM, encoder: Encoder, sleep: Sleep) -> None:
        """Declare the values that are read from the engines at each render."""
        page = self.page

        def waiting() -> int:
            return len(llm.waiting) + len(encoder.waiting)

        page.number(
            "gauge",
            "vllm:num_requests_running",
            "Number of requests in model execution batches.",
            lambda: len(llm.running) + encoder.running,
        )
        page.number("gauge", "vllm:num_requests_waiting", "Number of requests waiting.", waiting)
        page.numbers(
            "gauge",
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            lambda: [({"reason": "capacity"}, waiting()), ({"reason": "deferred"}, 0)],
        )
        page.numbers(
            "gauge",
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
            "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
            sleep.states,
        )
        page.number(
            "gauge", "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100%.", lambda: llm.kv_usage
        )
        for name, help_, read in (
            ("prefix_cache_queries", "Prefix cache queries, in tokens.", lambda: llm.cache_queries),
            ("prefix_cache_hits", "Prefix cache hits, in tokens.", lambda: llm.cache_hits),
            ("num_preemptions", "Preemptions.", lambda: 0),
            ("prompt_tokens", "Prefill tokens processed.", lambda: llm.prompt_tokens + encoder.tokens),
            ("prompt_tokens_cached", "Cached prompt tokens.", lambda: llm.cache_hits),
            ("generation_tokens", "Generation tokens processed.", lambda: llm.generated_tokens),
        ):
            page.number("counter", f"vllm:{name}_total", help_, read)
        page.numbers(
            "counter",
            "vllm:request_success_total",
            "Count of successfully processed requests.",
            lambda: [({"finished_reason": reason}, self.finished[reason]) for reason in _REASONS],
        )
        page.number(
            "gauge", "vllm:cache_config_info", "Information of the CacheConfig.", lambda: 1, **self._cache
        )
