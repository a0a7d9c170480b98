"""An engine's end is explained by one sentence, a hint and the right retry, from recorded and simulated logs."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed.failures import EngineFailure, Retry, explain
from sage_inference.engines.managed.gpus import Gpu, GpuProcess
from sage_inference.engines.managed.progress import StartPhase
from sage_inference.keeper.spec import ExitRecord
from sage_inference.port_holder import PortHolder
from sage_inference.simulator.starting.failures_printed import (
    INFINITY_FAILURES,
    LLAMA_SERVER_FAILURES,
    TEI_FAILURES,
    VLLM_FAILURES,
    PrintedFailure,
)

RECORDED = Path(__file__).parents[2] / "fixtures" / "engines" / "starts"
QWEN = ManagedEngineSettings(model="Qwen/Qwen2.5-7B-Instruct", name="qwen")
NO, COUNTED, CHANGED = Retry.NO, Retry.COUNTED, Retry.WITH_CHANGE


def ended(status: int | None = 1, signal: int | None = None, *, oom: bool = False) -> ExitRecord:
    return ExitRecord(status, signal, 0.0, ordered=False, oom_killed=oom)


def noise(count: int = 100) -> list[str]:
    """Lines of a start that went well, with warnings and words that look like failures."""
    lines = (RECORDED / "vllm_cpu_ready.log").read_text().splitlines()
    lines += [
        "(EngineCore pid=9) WARNING 11-30 17:08:13 [x.py:1] Failed to load a kernel. Exception: CUDA out of memory in a trial",
        "(APIServer pid=9) INFO 11-30 17:08:13 [x.py:1] trust_remote_code=False, port 8000: no error: fine",
    ]
    return list(itertools.islice(itertools.cycle(lines), count))


def printed(error: str, *, process: str = "EngineCore", before: str = "") -> list[str]:
    """A failure as vLLM prints it: with a prefix, after a traceback, and followed by errors about it."""
    prefix = f"({process} pid=77) ERROR 11-30 17:09:00 [core.py:1510] " if process else ""
    lines = [f"{prefix}{line}" for line in (*before.splitlines(), "EngineCore failed to start.")]
    lines += [f"{prefix}Traceback (most recent call last):", f'{prefix}  File "core.py", line 1499, in run']
    lines += [f"{prefix}{line}" for line in error.splitlines()]
    return [
        *lines,
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: leaked shared_memory objects",
        "  warnings.warn('resource_tracker: There appear to be %d '",
    ]


def of(
    error: str,
    *,
    engine: ManagedEngineSettings = QWEN,
    phase: StartPhase | None = StartPhase.LOAD,
    was_ready: bool = False,
    exit: ExitRecord | None = None,
    **how: Any,
) -> EngineFailure:
    lines = [*noise(), *printed(error, **how), *noise(100)]
    found = explain(lines, exit or ended(), phase, was_ready, engine)
    assert "\n" not in found.message
    return found


# The row of a simulated vLLM: its sentence, its hint, the retry and the change.
ROWS: dict[str, tuple[str, str, Retry, dict[str, Any]]] = {
    "gpu_memory_taken": ("GPU 0 has 9.1 GiB free, and qwen needs 72.77", "memory", Retry.WHEN_MEMORY, {}),
    "length_does_not_fit": ("a request of 131,072 tokens needs 16.0 GiB of KV cache, and 3.6 are there; 29,008 tokens fit", "max_model_len: 28672", CHANGED, {"max_model_len": 28672}),
    "no_cache_blocks": ("the weights leave no room for a KV cache", "quantized model", NO, {}),
    "profiling_race": ("another process freed GPU memory during the start", "", Retry.AT_ONCE, {}),
    "out_of_memory": ("out of GPU memory while loading the weights", "memory", COUNTED, {}),
    "out_of_memory_in_capture": ("out of GPU memory while loading the weights", "memory", COUNTED, {}),
    "gated_model": ("meta-llama/Llama-3.1-8B-Instruct needs an accepted license and a token", "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct", NO, {}),
    "unknown_model": ("the hub has no model nobody/no-such-model, or it is private", "managed.hf_token", NO, {}),
    "hub_unreachable": ("the hub cannot be reached, and Qwen/Qwen2.5-7B-Instruct is not in the cache", "managed.hf_home", Retry.BACK_OFF, {}),
    "not_in_cache": ("downloads are switched off, and Qwen/Qwen2.5-7B-Instruct is not in the cache", "managed.offline", Retry.BACK_OFF, {}),
    "no_weights": ("/models/qwen has no weights", "safetensors", NO, {}),
    "port_taken": ("its address is taken by another program", "another one is tried", Retry.OTHER_PORT, {}),
    "no_kernel_image": ("the engine was not built for this GPU", "compute capability", NO, {}),
    "driver_too_old": ("the NVIDIA driver supports CUDA 12.8, and the engine needs a newer one", "update the driver", NO, {}),
    "cuda_runtime_missing": ("the engine needs CUDA 13, and its library libcudart.so.13 is not on this machine", "driver", NO, {}),
    "bfloat16": ("the GPU has no bfloat16, which needs compute capability 8.0", "dtype: float16", CHANGED, {"dtype": "float16"}),
    "shm_too_small": ("/dev/shm is too small", "--shm-size", NO, {}),
    "nccl": ("the GPUs could not exchange data (NCCL)", "NCCL_P2P_DISABLE", CHANGED, {"env": {"NCCL_P2P_DISABLE": Secret("1")}}),
    "remote_code": ("Qwen/Qwen2.5-7B-Instruct brings its own Python code, which may not run", "trust_remote_code: true", NO, {}),
    "tokenizer_code": ("Qwen/Qwen2.5-7B-Instruct brings its own Python code, which may not run", "trust_remote_code: true", NO, {}),
    "ninja_missing": ("a kernel must be compiled, and ninja is missing", "pip install ninja", NO, {}),
    "nvcc_missing": ("a kernel must be compiled, and nvcc is missing", "CUDA toolkit", NO, {}),
    "compiler_missing": ("a kernel must be compiled, and a C compiler is missing", "gcc", NO, {}),
    "unrecognized_arguments": ("this version of the engine does not know --task embed", "args", NO, {}),
    "unknown_architecture": ("this version of the engine does not know the architecture NeverHeardOfForCausalLM", "newer engine", NO, {}),
    "gpu_by_uuid": ("this version of vLLM takes GPUs by index only", "CUDA_VISIBLE_DEVICES", NO, {}),
    "sleep_unsupported": ("this machine has no sleep mode", "--enable-sleep-mode", NO, {}),
    "worker_died": ("one of its processes ended with SIGKILL while loading the weights", "sage inference logs qwen", COUNTED, {}),
    "unmatched": ("it ended with status 1 while loading the weights: KeyError: 'model.layers.0.self_attn.flux_capacitor'", "sage inference logs qwen -n 50", COUNTED, {}),
}  # fmt: skip
# Ends without a text of their own.
SILENT = {"oom_killed", "segmentation_fault", "core_died", "silent", "stalled"}


@pytest.mark.parametrize("row", VLLM_FAILURES)
def test_failure_of_vllm_is_found_in_the_midst_of_other_lines(row: str) -> None:
    if row in SILENT:
        return
    failure = VLLM_FAILURES[row]
    message, hint, retry, change = ROWS[row]
    for process in ("EngineCore", "Worker_TP0", ""):
        found = of(failure.error, before=failure.before, exit=ended(failure.status), process=process)
        assert found.message == message
        assert hint in (found.hint or "")
        assert (found.retry, found.change) == (retry, change)


TEI_ROWS: dict[str, tuple[str, str, Retry, dict[str, Any]]] = {
    "gated_model": ("google/embeddinggemma-300m needs an accepted license and a token", "https://huggingface.co/google/embeddinggemma-300m", NO, {}),
    "unknown_model": ("the hub has no model nobody/no-such-model, or it is private", "check the name", NO, {}),
    "hub_unreachable": ("the hub cannot be reached, and Qwen/Qwen2.5-7B-Instruct is not in the cache", "network", Retry.BACK_OFF, {}),
    "out_of_memory": ("out of GPU memory while warming up", "--max-batch-tokens, 8192", CHANGED, {"args": ("--max-batch-tokens", "8192")}),
    "wrong_build": ("the engine was built for GPUs of compute capability 8.0, and this one has 7.5", "turing-", NO, {}),
    "no_fast_tokenizer": ("Qwen/Qwen2.5-7B-Instruct has no tokenizer that this engine reads (tokenizer.json)", "engine: vllm", NO, {}),
    "length_above_batch": ("texts may have 32,768 tokens, and a batch only 16,384", "--auto-truncate", NO, {}),
    "port_taken": ("port 3000 is taken by another program", "next free port", Retry.OTHER_PORT, {}),
    "unmatched": ("it ended with status 1 while warming up: Could not create backend: the flux capacitor is empty", "sage inference logs", COUNTED, {}),
}  # fmt: skip


@pytest.mark.parametrize("row", TEI_ROWS)
def test_failure_of_tei_is_found(row: str) -> None:
    failure = TEI_FAILURES[row]
    message, hint, retry, change = TEI_ROWS[row]
    stamp = "\x1b[2m2026-11-30T17:08:15.776080Z\x1b[0m"
    lines = [
        f"{stamp} \x1b[32m INFO\x1b[0m \x1b[2mtext_embeddings_router\x1b[0m\x1b[2m:\x1b[0m router/src/main.rs:216: Args {{}}"
    ]
    if failure.before:
        lines.append(
            f"{stamp} \x1b[31mERROR\x1b[0m \x1b[2mtext_embeddings_backend\x1b[0m\x1b[2m:\x1b[0m backends/src/lib.rs:567: {failure.before}"
        )
    lines += f"Error: {failure.error}".splitlines() if failure.status == 1 else failure.error.splitlines()
    found = explain(lines, ended(failure.status), StartPhase.WARM, False, QWEN)
    assert found.message == message
    assert hint in (found.hint or "")
    assert (found.retry, found.change) == (retry, change)


LLAMA_ROWS = {
    "no_weights": ("it ended with status 1 while loading the weights: gguf_init_from_file: failed to open GGUF file '/models/m.gguf'", COUNTED),
    "unknown_architecture": ("this version of the engine does not know the architecture never-heard-of", NO),
    "out_of_memory": ("out of GPU memory while loading the weights", COUNTED),
    "no_kernel_image": ("the engine was not built for this GPU", NO),
    "port_taken": ("port 8080 is taken by another program", Retry.OTHER_PORT),
    "unrecognized_arguments": ("this version of the engine does not know --task", NO),
    "unmatched": ("it ended with status 1 while loading the weights: llama_model_load: error loading model: the flux capacitor is empty", COUNTED),
}  # fmt: skip
INFINITY_ROWS = {
    "unknown_model": ("the hub has no model nobody/no-such-model, or it is private", NO),
    "gated_model": ("meta-llama/Llama-3.1-8B-Instruct needs an accepted license and a token", NO),
    "hub_unreachable": (
        "the hub cannot be reached, and Qwen/Qwen2.5-7B-Instruct is not in the cache",
        Retry.BACK_OFF,
    ),
    "remote_code": ("Qwen/Qwen2.5-7B-Instruct brings its own Python code, which may not run", NO),
    "out_of_memory": ("out of GPU memory while loading the weights", COUNTED),
    "unrecognized_arguments": ("this version of the engine does not know --task", NO),
    "unmatched": ("it ended with status 1 while loading the weights: KeyError: 'flux_capacitor'", COUNTED),
}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        *(pytest.param(LLAMA_SERVER_FAILURES[row], expected, id=f"llama-{row}") for row, expected in LLAMA_ROWS.items()),
        *(pytest.param(INFINITY_FAILURES[row], expected, id=f"infinity-{row}") for row, expected in INFINITY_ROWS.items()),
    ],
)  # fmt: skip
def test_failure_of_llama_server_and_infinity_is_found(
    failure: PrintedFailure, expected: tuple[str, Retry]
) -> None:
    lines = ["main: loading model", "srv    load_model: loading model '/m.gguf'"]
    lines += f"{failure.before}\n{failure.error}".splitlines()
    lines += [
        "srv    load_model: failed to load model, '/m.gguf'",
        "main: exiting due to model loading error",
    ]
    found = explain(lines, ended(), StartPhase.LOAD, False, QWEN)
    assert found.message.startswith(expected[0])
    assert found.retry is expected[1]


def test_every_row_of_the_simulators_has_a_sentence() -> None:
    assert VLLM_FAILURES.keys() == ROWS.keys() | SILENT
    silent = {"oom_killed", "stalled"}
    assert TEI_FAILURES.keys() == TEI_ROWS.keys() | silent
    assert LLAMA_SERVER_FAILURES.keys() == LLAMA_ROWS.keys() | silent
    assert INFINITY_FAILURES.keys() == INFINITY_ROWS.keys() | silent | {"port_taken"}  # see the recorded one


def test_a_core_that_crashed_without_words_is_named_by_its_signal() -> None:
    last = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': -11}"
    found = explain([*noise(), last], ended(), StartPhase.LOAD, False, QWEN)
    assert found.message == "one of its processes ended with SIGSEGV while loading the weights"


@pytest.mark.parametrize(
    ("log", "message", "retry"),
    [
        ("vllm_cpu_length_does_not_fit", "a request of 8,192 tokens needs 0.02 GiB of KV cache, and 0.01 are there; 3,968 tokens fit", CHANGED),
        ("vllm_cpu_cache_too_large", "this machine has 20.34 GiB of memory, and the KV cache needs 500.0", NO),
        ("vllm_cpu_memory_taken", "this machine has 17.66 of 20.34 GiB of memory free, and qwen needs more", Retry.WHEN_MEMORY),
        ("vllm_cpu_offline", "downloads are switched off, and Qwen/Qwen2.5-7B-Instruct is not in the cache", Retry.BACK_OFF),
        ("vllm_cpu_port_taken", "port 42323 is taken by another program", Retry.OTHER_PORT),
        ("vllm_cpu_unknown_argument", "this version of the engine does not know --task", NO),
        ("vllm_cpu_unknown_architecture", "this version of the engine does not know the architecture NeverHeardOfForCausalLM", NO),
        ("vllm_cpu_no_sleep", "this machine has no sleep mode", NO),
        ("infinity_unknown_argument", "this version of the engine does not know --frobnicate", NO),
        ("infinity_port_taken", "port 44831 is taken by another program", Retry.OTHER_PORT),
        ("llama_port_taken", "port 28345 is taken by another program", Retry.OTHER_PORT),
        ("llama_no_model", "it ended with status 1 while loading the weights: gguf_init_from_file: failed to open GGUF file 'nowhere.gguf' (No such file or directory)", COUNTED),
        ("llama_broken_file", "it ended with status 1 while loading the weights: gguf_init_from_reader: failed to read key-value pairs", COUNTED),
        ("llama_unknown_architecture", "this version of the engine does not know the architecture ilama", NO),
        ("llama_unknown_argument", "this version of the engine does not know --task", NO),
        ("llama_wrong_argument", 'the engine refuses its command line: argument "-c": stoi', NO),
        ("llama_offline", "downloads are switched off, and Qwen/Qwen2.5-7B-Instruct is not in the cache", Retry.BACK_OFF),
        ("llama_without_https", "this llama-server was built without HTTPS, and Qwen/Qwen2.5-7B-Instruct is not in the cache", Retry.BACK_OFF),
    ],
)  # fmt: skip
def test_recorded_failure_is_explained(log: str, message: str, retry: Retry) -> None:
    lines = (RECORDED / f"{log}.log").read_text().splitlines()
    found = explain(lines, ended(), StartPhase.LOAD, False, QWEN)
    assert (found.message, found.retry) == (message, retry)


TAKEN = {
    "vllm": ("vllm_cpu_port_taken", 42323, ()),
    "infinity": ("infinity_port_taken", 44831, ()),
    "tei": (TEI_FAILURES["port_taken"].error, 3000, ()),
    "llama-server": (LLAMA_SERVER_FAILURES["port_taken"].error, 8080, ()),
    "a log without the port": (VLLM_FAILURES["port_taken"].error, 18400, ()),
    "a command with its own port": (
        "OSError: [Errno 98] Address already in use",
        18400,
        ("serve", "--port", "9"),
    ),
    "a command with ours": ("OSError: [Errno 98] Address already in use", 18400, ("serve", "--port={port}")),
}


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(("log", "port", "command"), TAKEN.values(), ids=TAKEN)
def test_a_taken_port_names_its_holder(log: str, port: int, command: tuple[str, ...], seen: bool) -> None:
    recorded = RECORDED / f"{log.partition(chr(10))[0]}.log"
    lines = recorded.read_text().splitlines() if " " not in recorded.name else log.splitlines()
    holder = PortHolder(4121, "python3", "bob", is_ours=False) if seen else None
    asked: list[int] = []

    def holder_of(port: int) -> PortHolder | None:
        asked.append(port)
        return holder

    engine = replace(QWEN, command=command)
    found = explain(lines, ended(), None, False, engine, port=18400, holder_of=holder_of)
    assert asked == [port]
    who = "pid 4121 (python3, user bob)" if seen else "another program"
    assert found.message == f"port {port} is taken by {who}"
    then = "the command should have {port} for its port" if command[2:] else "the next free port is tried"
    assert found.hint == ("sudo kill 4121 ends it; " if seen else "") + then
    assert found.retry is (COUNTED if command[2:] else Retry.OTHER_PORT)


def test_the_first_cause_wins_over_those_that_follow_from_it() -> None:
    first, second = VLLM_FAILURES["profiling_race"].error, VLLM_FAILURES["no_cache_blocks"].error
    assert of(f"{first}\n{second}").retry is Retry.AT_ONCE
    assert of(f"{second}\n{first}").message == ROWS["no_cache_blocks"][0]


def test_a_cause_is_found_wherever_it_stands() -> None:
    error = printed(VLLM_FAILURES["bfloat16"].error)
    for seed in range(5):
        at = random.Random(seed).randrange(200)
        lines = noise(200)
        assert explain([*lines[:at], *error, *lines[at:]], ended(), None, False, QWEN).change == {
            "dtype": "float16"
        }


def test_a_length_that_settings_name_is_not_changed() -> None:
    engine = replace(QWEN, max_model_len=131072)
    found = of(VLLM_FAILURES["length_does_not_fit"].error, engine=engine)
    assert (found.retry, found.change, found.hint) == (NO, {}, "max_model_len: 28672")


def test_a_changed_start_that_still_fails_is_not_changed_for_ever() -> None:
    error = VLLM_FAILURES["bfloat16"].error
    assert of(error, engine=replace(QWEN, dtype="float16")).retry is NO
    nccl = VLLM_FAILURES["nccl"].error
    assert of(nccl, engine=replace(QWEN, env={"NCCL_P2P_DISABLE": Secret("1")})).retry is COUNTED
    length = VLLM_FAILURES["length_does_not_fit"].error
    assert of(length, engine=replace(QWEN, max_model_len=28672)).retry is NO


def out_of_memory(share: float, *, total: float, free: float, own: float) -> EngineFailure:
    arguments = f"(APIServer pid=9) INFO 11-30 17:08:13 [x.py:1] non-default args: {{'gpu_memory_utilization': {share}}}"
    error = (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of {total} "
        f"GiB of which {free} GiB is free. Including non-PyTorch memory, this process has {own} GiB memory in use."
    )
    lines = [arguments, *noise(), *printed(error)]
    return explain(lines, ended(), StartPhase.CAPTURE, False, QWEN)


def test_an_engine_that_used_its_share_tries_once_with_less() -> None:
    found = out_of_memory(0.92, total=79.1, free=1.15, own=77.94)
    assert found.message == "out of GPU memory while capturing graphs"
    assert (found.retry, found.change) == (CHANGED, {"memory": "0.828"})
    beside_its_plan = out_of_memory(0.5, total=80, free=0.5, own=39.9)
    assert beside_its_plan.retry is CHANGED


@pytest.mark.parametrize(("free", "own"), [(0.2, 30.0), (1.0, 60.0), (0.1, 2.0)])
def test_memory_that_a_neighbour_took_is_not_blamed_on_the_model(free: float, own: float) -> None:
    found = out_of_memory(0.92, total=80, free=free, own=own)
    assert found.retry is Retry.WHEN_MEMORY
    assert f"other processes hold {80 - free - own:.1f} GiB" in found.message
    assert not found.change


def test_the_gpu_is_named_as_the_settings_name_it() -> None:
    found = of(VLLM_FAILURES["gpu_memory_taken"].error, engine=replace(QWEN, gpus=("3",)))
    assert found.message.startswith("GPU 3 has 9.1 GiB free")


def test_those_who_hold_the_memory_are_named() -> None:
    holder = GpuProcess(4121, "python3", "bob", int(13.2 * (1 << 30)))
    gpu = Gpu(2, "GPU-x", "NVIDIA L4", 24 << 30, 9 << 30, (8, 9), (holder,))
    lines = printed(VLLM_FAILURES["gpu_memory_taken"].error)
    found = explain(lines, ended(), StartPhase.BOOT, False, QWEN, [gpu])
    assert found.message == (
        "GPU 2 has 9.1 GiB free, and qwen needs 72.77; pid 4121 (python3, user bob) holds 13.2 GiB"
    )


def test_a_missing_tokenizer_is_not_sent_from_vllm_to_vllm() -> None:
    found = of("OSError: Can't load tokenizer for 'MODEL_DIR'. Make sure it is not a directory.")
    assert found.message == "Qwen/Qwen2.5-7B-Instruct has no tokenizer"
    assert "engine: vllm" not in (found.hint or "")


def test_sleep_is_left_out_and_the_start_repeated_if_an_argument_asked_for_it() -> None:
    engine = replace(QWEN, args=("--enable-sleep-mode", "--max-num-seqs", "4"))
    found = of(VLLM_FAILURES["sleep_unsupported"].error, engine=engine)
    assert (found.retry, found.change) == (CHANGED, {"args": ("--max-num-seqs", "4")})


@pytest.mark.parametrize(
    ("exit", "was_ready", "message"),
    [
        (ended(None, 9, oom=True), False, "the kernel killed it while loading the weights, because the machine ran out of memory"),
        (ended(1, oom=True), False, "the kernel killed it while loading the weights, because the machine ran out of memory"),
        (ended(0, oom=True), True, "the kernel killed it while serving, because the machine ran out of memory"),
        (ended(None, 9), False, "another program ended it with SIGKILL while loading the weights"),
        (ended(None, 11), False, "it crashed with SIGSEGV while loading the weights"),
        (ended(None, 6), True, "it crashed with SIGABRT while serving"),
        (ended(0), True, "its engine core crashed while it served"),
        (replace(ended(0), keeper_killed=True), True, "its keeper was killed, and the engine was ended with it"),
        (replace(ended(None, 9), keeper_killed=True), False, "its keeper was killed, and the engine was ended with it"),
    ],
)  # fmt: skip
def test_an_end_without_words_is_explained_by_its_status(
    exit: ExitRecord, was_ready: bool, message: str
) -> None:
    found = explain(noise(200), exit, StartPhase.LOAD, was_ready, QWEN)
    assert found.message == message
    assert found.retry is COUNTED


def test_a_start_that_ends_without_an_error_shows_its_last_line() -> None:
    lines = [
        *noise(20),
        "(APIServer pid=1) INFO 11-30 17:09:00 [x.py:1] Using max model len 8192",
        "nanobind: leaked 4 types!",
    ]
    found = explain(lines, ended(0), StartPhase.BOOT, False, QWEN)
    assert found.message == (
        "it ended with status 0 while starting its processes and printed no error; its last line is: Using max model len 8192"
    )
    assert (
        explain([], ended(3), None, False, QWEN).message
        == "it ended with status 3 while serving and printed no error"
    )


@pytest.mark.parametrize("engine", ["tei", "infinity", "llama_server", "command"])
def test_only_an_engine_with_a_core_is_blamed_on_its_core(engine: str) -> None:
    lines = ["2026-11-30T17:49:42Z  INFO text_embeddings_router: Ready"]
    found = explain(lines, ended(0), None, True, replace(QWEN, engine=engine))
    assert found.message == "it ended with status 0 while serving"


def test_a_core_that_was_killed_while_it_served_is_explained_from_the_recorded_log() -> None:
    lines = (RECORDED / "vllm_cpu_core_killed.log").read_text().splitlines()
    found = explain(lines, ended(0), StartPhase.WARM, True, QWEN)
    assert found.message == "its engine core crashed while it served"
    assert found.retry is COUNTED


def test_a_crash_names_the_first_error_of_the_core_and_no_answer_to_a_request() -> None:
    chat = "(APIServer pid=1) ERROR 11-30 17:09:00 [x.py:1] ValueError: As of transformers v4.44, default chat template is no longer allowed"
    taken = "(APIServer pid=1) ERROR 11-30 17:09:00 [x.py:1] OSError: [Errno 98] Address already in use"
    core = "(EngineCore pid=2) ERROR 11-30 17:10:00 [core.py:9] "
    lines = [
        *noise(),
        chat,
        taken,
        f"{core}EngineCore encountered a fatal error.",
        f"{core}IndexError: list index out of range",
    ]
    lines.append("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.")
    found = explain([*lines, *noise(20)], ended(0), StartPhase.WARM, True, QWEN)
    assert found.message == "its engine core crashed while it served: IndexError: list index out of range"
    lines.insert(-2, f"{core}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    found = explain(lines, ended(0), StartPhase.WARM, True, QWEN)
    assert found.message == "out of GPU memory while serving"
    assert found.retry is COUNTED


def test_secrets_are_masked_in_what_is_quoted() -> None:
    engine = replace(QWEN, env={"MY_KEY": Secret("topsecretvalue")})
    for secret in ("hf_abcdefghijklmnop", "topsecretvalue", "Authorization: Bearer abcdefghijkl"):
        found = of(f"KeyError: 'no {secret} here'", engine=engine)
        assert "no" in found.message
        assert secret.split()[-1] not in f"{found.message} {found.hint}"
    assert (
        "topsecretvalue"
        not in of("error: unrecognized arguments: --key topsecretvalue", engine=engine).message
    )


def test_a_long_or_strange_line_is_cut_and_harms_nothing() -> None:
    found = of("ValueError: " + "x" * 100_000)
    assert len(found.message) < 400
    for strange in ("", "\x00\x1b[31m", "Error: ", "thread 'main' panicked", "\r\r\r", "(APIServer pid="):
        assert explain([strange], ended(), None, False, QWEN).message


def test_a_log_of_any_length_is_explained_in_bounded_time_and_memory() -> None:
    import time

    lines = itertools.chain(noise(22_000), printed(VLLM_FAILURES["no_cache_blocks"].error))
    before = time.process_time()
    assert explain(lines, ended(), None, False, QWEN).message == ROWS["no_cache_blocks"][0]
    assert time.process_time() - before < 10
