"""A start's phases, percentages and signs of life, from recorded logs, simulated starts and growing files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from sage_inference.engines.managed.progress import StartMoment, StartPhase, StartProgress, phase_at_end
from tests.support.starts import started

RECORDED = Path(__file__).parents[2] / "fixtures" / "engines" / "starts"
BOOT, FETCH, LOAD, COMPILE, CAPTURE, WARM = StartPhase


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def moments(lines: Iterable[str]) -> list[StartMoment]:
    """The different moments of a start, in their order."""
    progress, found = StartProgress(), [StartMoment(BOOT)]
    for line in lines:
        for part in line.split("\r"):  # a keeper separates them; a reader of the file may not
            progress.line(part)
            if progress.progress != found[-1]:
                found.append(progress.progress)
    return found


def phases(lines: Iterable[str]) -> list[StartPhase]:
    found = moments(lines)
    return [one.phase for at, one in enumerate(found) if at == 0 or found[at - 1].phase is not one.phase]


@pytest.mark.parametrize(
    ("log", "seen", "expected"),
    [
        ("vllm_cpu_length_does_not_fit", BOOT, LOAD),  # the last look at the log was before these lines
        ("vllm_cpu_length_does_not_fit", None, LOAD),
        ("vllm_cpu_port_taken", None, BOOT),
        ("vllm_cpu_port_taken", FETCH, FETCH),  # seen in the files, and not in the log
        ("infinity_ready", LOAD, WARM),
        ("infinity_ready", WARM, WARM),
    ],
)
def test_a_start_ends_in_the_phase_of_its_last_lines(
    log: str, seen: StartPhase | None, expected: StartPhase
) -> None:
    assert phase_at_end((RECORDED / f"{log}.log").read_text().split("\n"), seen) is expected


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("vllm_cpu_ready", [BOOT, LOAD, COMPILE, WARM]),
        ("vllm_cpu_pooling", [BOOT, LOAD, COMPILE, WARM]),
        ("vllm_gpu_ready", [BOOT, LOAD, CAPTURE, WARM]),
        ("vllm_gpu_pooling", [BOOT, LOAD, COMPILE, CAPTURE, WARM]),
        ("infinity_ready", [BOOT, LOAD, WARM]),
        ("llama_ready", [BOOT, LOAD, WARM]),
        ("vllm_cpu_length_does_not_fit", [BOOT, LOAD]),
        ("vllm_cpu_port_taken", [BOOT]),
    ],
)
def test_recorded_start_goes_through_its_phases(log: str, expected: list[StartPhase]) -> None:
    assert phases((RECORDED / f"{log}.log").read_text().split("\n")) == expected


def test_recorded_shards_are_counted() -> None:
    lines = (RECORDED / "vllm_cpu_ready.log").read_text().split("\n")
    assert [one.share for one in moments(lines) if one.phase is LOAD] == [None, 0.0, 1.0, None]
    assert any(one.detail == "KV cache of 524,288 tokens" for one in moments(lines))


def test_a_simulated_vllm_shows_every_phase_with_its_share(tmp_path: Path) -> None:
    with started(
        "vllm-serve", "serve", "org/model", "--uds", str(tmp_path / "s"), log=tmp_path / "log"
    ) as engine:
        engine.wait_for("Application startup complete")
        text = engine.text
    found = moments(text.split("\n"))
    assert phases(text.split("\n")) == [BOOT, LOAD, COMPILE, CAPTURE, WARM]
    assert [one.detail for one in found if one.phase is LOAD and one.share is not None] == [
        "0/2",
        "1/2",
        "2/2",
    ]
    captured = [one.share for one in found if one.phase is CAPTURE and one.share is not None]
    assert captured == sorted(captured)
    assert captured[-1] == 1.0


def test_a_simulated_tei_shows_its_phases(tmp_path: Path) -> None:
    port = ["--port", "0", "--prometheus-port", "0", "--hostname", "127.0.0.1"]
    with started("tei-router", "--model-id", "org/model", *port, log=tmp_path / "log") as engine:
        engine.wait_for("Ready")
        text = engine.text
    assert phases(text.split("\n")) == [BOOT, FETCH, LOAD, FETCH, LOAD, WARM]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.10s/it]", StartMoment(LOAD, 0.5, "1/2")),
        ("Multi-thread loading shards:  25% Completed | 1/4 [00:01<00:01]", StartMoment(BOOT)),
        ("Loading pt checkpoint shards: 100% Completed | 3/3 [00:01]", StartMoment(LOAD, 1.0, "3/3")),
        ("Model loading took 14.32 GiB and 1.6 seconds", StartMoment(LOAD)),
        ("(Worker_TP0 pid=1) INFO 11-30 17:08:12 [m.py:68] Starting to load model org/m...", StartMoment(LOAD)),
        ("INFO [backends.py:1] Using cache directory: /r/.cache/vllm/torch_compile_cache/2c/rank_0_0/backbone for vLLM's torch.compile", StartMoment(COMPILE)),
        ("Compiling a graph for compile range (1, 8192) takes 4.58 s", StartMoment(COMPILE, None, "compile range (1, 8192)")),
        ("Directly load AOT compilation from path /x", StartMoment(COMPILE)),
        ("torch.compile takes 11.82 s in total", StartMoment(COMPILE)),
        ("Capturing CUDA graphs (decode, FULL):  35%|###5      | 18/51 [00:00<00:02, 19.98it/s]", StartMoment(CAPTURE, 18 / 51, "18/51")),
        ("Capturing CUDA graph shapes:  10%|#         | 7/67 [00:02<00:19]", StartMoment(CAPTURE, 7 / 67, "7/67")),
        ("init engine (profile, create kv cache, warmup model) took 22.15 seconds", StartMoment(WARM)),
        ("\x1b[2m2026\x1b[0m INFO text_embeddings_backend: x.rs:1: Downloading `model.safetensors`", StartMoment(FETCH, None, "model.safetensors")),
        ("srv    load_model: loading model '/m.gguf'", StartMoment(LOAD)),
        ("main: server is listening on http://127.0.0.1:8080", StartMoment(WARM)),
        ("0%| nothing of ours", StartMoment(BOOT)),
        ("Loading safetensors checkpoint shards: 0% Completed | 0/0", StartMoment(LOAD, 0.0)),
    ],
)  # fmt: skip
def test_line_shows_the_phase(line: str, expected: StartMoment) -> None:
    progress = StartProgress()
    progress.line(line)
    assert progress.progress == expected


def test_parts_separated_by_carriage_returns_count_in_their_order() -> None:
    progress = StartProgress()
    progress.line("\rCapturing CUDA graphs:  10%|#| 1/10\rCapturing CUDA graphs: 100%|#| 10/10")
    assert progress.progress == StartMoment(CAPTURE, 1.0, "10/10")


def test_a_phase_never_comes_back() -> None:
    progress = StartProgress()
    for line in (
        "Graph capturing finished in 3 secs",
        "Starting to load model x",
        "Capturing CUDA graphs: 1%|#| 1/9",
    ):
        progress.line(line)
        assert progress.progress.phase is WARM


class Cache:
    """The hub's cache of one model, as a download fills it."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "models--org--m" / "blobs"
        self.clock = Clock()
        self.about = {
            "download": {
                "folder": str(self.blobs.parent),
                "files": {"aa": 4_000_000_000, "bb": 1_000_000_000},
            }
        }

    def grow(self, name: str, size: int) -> None:
        self.blobs.mkdir(parents=True, exist_ok=True)
        with (self.blobs / name).open("ab") as file:
            file.write(b"x" * size)

    def start(self) -> StartProgress:
        progress = StartProgress(self.about, self.clock)
        self.look(progress)
        return progress

    def look(self, progress: StartProgress) -> StartMoment:
        self.clock.now += 1.5
        progress.look(None)
        return progress.progress


def small(cache: Cache) -> None:
    cache.about = {"download": {"folder": str(cache.blobs.parent), "files": {"aa": 400_000, "bb": 100_000}}}


def test_a_download_shows_its_bytes_and_its_share(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    small(cache)
    progress = cache.start()
    progress.line("Starting to load model org/m...")
    shares = []
    for _ in range(4):
        cache.grow("aa.12ab.incomplete", 100_000)
        moment = cache.look(progress)
        assert moment.phase is FETCH
        shares.append(moment.share)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.02)
    (cache.blobs / "aa.12ab.incomplete").rename(cache.blobs / "aa")
    cache.grow("bb", 100_000)
    assert cache.look(progress) == StartMoment(FETCH, 1.0, "0.0 of 0.0 GB")
    progress.line("Loading safetensors checkpoint shards:  50% Completed | 1/2")
    cache.grow("other", 100_000)
    assert cache.look(progress).phase is LOAD


def test_what_a_killed_download_left_does_not_count_unless_it_grows(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    small(cache)
    cache.grow("aa.dead.incomplete", 300_000)
    cache.grow("bb", 100_000)
    progress = cache.start()
    cache.grow("aa.new.incomplete", 100_000)
    assert cache.look(progress).share == pytest.approx(0.4, abs=0.02)
    cache.grow("aa.dead.incomplete", 50_000)
    assert cache.look(progress).share == pytest.approx(0.9, abs=0.02)


def test_a_download_of_unknown_size_shows_its_bytes_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.about = {"download": {"folder": str(cache.blobs.parent), "files": {}}}
    cache.grow("old", 500_000)
    progress = cache.start()
    assert cache.look(progress) == StartMoment(BOOT)
    cache.grow("x.1.incomplete", 100_000)
    assert cache.look(progress) == StartMoment(FETCH, None, "0.0 GB")
    (cache.blobs / "x.1.incomplete").rename(cache.blobs / "x")
    before = progress.stirred_at
    cache.look(progress)
    assert progress.stirred_at == before, "a rename is no byte"


def test_lines_and_bytes_are_signs_of_life_and_a_hang_is_not(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    progress = cache.start()
    cache.clock.now += 60
    progress.line("anything")
    assert progress.stirred_at == cache.clock.now
    for line in (
        "",
        "  ",
        "\x1b[0m",
        "INFO [shm_broadcast.py:871] No available shared memory broadcast block found in 60 seconds.",
    ):
        cache.clock.now += 60
        progress.line(line)
    assert progress.stirred_at == cache.clock.now - 240
    cache.grow("aa", 10)
    cache.look(progress)
    assert progress.stirred_at == cache.clock.now


@pytest.mark.parametrize("is_busy", [True, False])
def test_cpu_time_of_the_engine_and_its_children_is_a_sign_of_life(is_busy: bool) -> None:
    child = "while True: pass" if is_busy else "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    clock = Clock()
    progress = StartProgress(None, clock)
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        try:
            leader = psutil.Process(process.pid)
            while not leader.children():
                time.sleep(0.01)
            (worker,) = leader.children()
            clock.now += 6
            progress.look(process.pid)
            began, used = progress.stirred_at, worker.cpu_times().user
            while is_busy and worker.cpu_times().user < used + 0.3:
                time.sleep(0.01)
            clock.now += 6 if is_busy else 600
            progress.look(process.pid)
            assert (progress.stirred_at > began) is is_busy
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_is_gone_is_no_error() -> None:
    clock = Clock()
    progress = StartProgress({}, clock)
    for _ in range(3):
        clock.now += 10
        progress.look(2**22 + 1)
    assert progress.progress == StartMoment(BOOT)
