"""The progress of an engine's start, from its log and from the file system."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sage_inference.engines.managed.activity import IDLE_CPU, cpu_seconds
from sage_inference.engines.managed.download import Download
from sage_inference.visible import without_colours


class StartPhase(StrEnum):
    """The phases of a start, in their order. An engine may leave some out."""

    BOOT = "boot"
    FETCH = "fetch"
    LOAD = "load"
    COMPILE = "compile"
    CAPTURE = "capture"
    WARM = "warm"

    @property
    def words(self) -> str:
        """The phase as a sentence names it: ``out of memory while capturing graphs``."""
        return _WORDS[self]


_WORDS = {
    StartPhase.BOOT: "starting its processes",
    StartPhase.FETCH: "downloading the model",
    StartPhase.LOAD: "loading the weights",
    StartPhase.COMPILE: "compiling",
    StartPhase.CAPTURE: "capturing graphs",
    StartPhase.WARM: "warming up",
}
_RANK = {phase: rank for rank, phase in enumerate(StartPhase)}


@dataclass(frozen=True, slots=True)
class StartMoment:
    """One moment of a start. ``share`` is the part of the phase that is done, from 0 to 1, if it is known."""

    phase: StartPhase
    share: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class _Sign:
    """A line that shows a phase. Its groups may be named ``percent``, ``done`` and ``all``, and ``detail``."""

    phase: StartPhase
    pattern: re.Pattern[str]


def _signs(phase: StartPhase, *patterns: str) -> tuple[_Sign, ...]:
    return tuple(_Sign(phase, re.compile(pattern)) for pattern in patterns)


# Of vLLM 0.25.1 and 0.32.0, TEI 1.9, infinity 0.0.78, llama.cpp b6000 and b10434. A pattern fits no other engine's lines.
_SIGNS = (
    *_signs(
        StartPhase.BOOT,
        r"Resolved architecture: (?P<detail>\w+)",
    ),
    *_signs(
        StartPhase.FETCH,
        r"(?:Starting download|Downloading `(?P<detail>[^`]+)`)",
        r"Downloading (?P<detail>shards|model\S*\.safetensors)[^%]*?(?P<percent>\d{1,3})%",
        r"common_download_file\S*: (?P<detail>trying to download|downloading)",
    ),
    *_signs(
        StartPhase.LOAD,
        r"Starting to load model|Loading model from scratch",
        r"Loading (?:\S+ )+(?:checkpoint )?shards:\s+(?P<percent>\d{1,3})% Completed \| (?P<done>\d{1,9})/(?P<all>\d{1,9})",
        r"Loading weights took|Model loading took",
        r"(?:Time spent downloading weights|Model weights downloaded in|Model artifacts downloaded in)",
        r"Starting model backend",
        r"Starting \S+ model on ",
        r"(?:creating batch engine|Load pretrained SentenceTransformer)",
        r"(?:llama_model_loader: loaded meta data|load_tensors: loading model tensors|srv\s+load_model: loading model)",
    ),
    *_signs(
        StartPhase.COMPILE,
        r"Using cache directory: \S*torch_compile_cache",
        r"Dynamo bytecode transform time",
        r"Compiling a graph for (?P<detail>compile range \([^)]*\)|[^,]{0,40}?) takes",
        r"Directly load (?:the compiled graph|AOT compilation)",
        r"torch\.compile t(?:ook|akes) |Cache the graph of compile range|saved AOT compiled function",
        r"Warming up model for the compilation",
    ),
    *_signs(
        StartPhase.CAPTURE,
        r"Capturing CUDA graphs?[^%]*?(?P<percent>\d{1,3})%\|[^|]*\| (?P<done>\d{1,9})/(?P<all>\d{1,9})",
        r"Capturing CUDA graphs?",
    ),
    *_signs(
        StartPhase.WARM,
        r"Graph capturing finished",
        r"Warming up (?:done|model$)",
        r"init engine \(profile",
        r"Starting vLLM server on",
        r"Application startup complete",
        r"Starting HTTP server:",
        r"(?:Getting timings for batch_size|ready to batch requests)",
        r"(?:warming up the model with an empty run|main: model loaded|server is listening on)",
        r"srv\s+(?:load_model: initializing|llama_server: (?:model loaded|listening on))",
    ),
)
_KV_CACHE = re.compile(r"KV cache size: (?P<tokens>[\d,]+) tokens")
# A core that hangs makes vLLM print this each minute.
_NO_SIGN_OF_LIFE = re.compile(r"No available shared memory broadcast block found")
_LOOK_AT_FILES_S = 1.0
_LOOK_AT_CPU_S = 5.0
_LONGEST_PART = 3000


class StartProgress:
    """The state of one start. ``about`` is that of its launch, and names the files of a download.

    ``stirred_at`` is the time of the last line, byte or CPU use, by ``clock``.
    """

    def __init__(
        self, about: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress = StartMoment(StartPhase.BOOT)
        self.stirred_at = clock()
        self._clock = clock
        self._download = Download.of(about or {})
        self._files_at = self._cpu_at = clock()
        self._cpu_s: float | None = None

    def line(self, text: str) -> None:
        """Take a line of the log. Parts of it that are separated by ``\\r`` count in their order."""
        for part in text.split("\r"):
            self._part(without_colours(part[:_LONGEST_PART]).strip())

    def _part(self, text: str) -> None:
        if not text or _NO_SIGN_OF_LIFE.search(text):
            return
        self.stirred_at = self._clock()
        cache = _KV_CACHE.search(text)
        if cache is not None:
            self.progress = StartMoment(self.progress.phase, None, f"KV cache of {cache['tokens']} tokens")
            return
        for sign in _SIGNS:
            found = sign.pattern.search(text)
            if found is not None:
                self._move(_moment(sign.phase, found.groupdict()))
                return

    def _move(self, moment: StartMoment) -> None:
        """Go on to ``moment``. A phase never ends twice, except that an engine may fetch and load in turns."""
        now, new = self.progress.phase, moment.phase
        between = {StartPhase.FETCH, StartPhase.LOAD}
        if _RANK[new] >= _RANK[now] or {now, new} <= between:
            self.progress = moment

    def look(self, pid: int | None) -> None:
        """Look at the download's files and at the engine's CPU time. ``pid`` is its first process. Call it often."""
        now = self._clock()
        if now - self._files_at >= _LOOK_AT_FILES_S and self._download is not None:
            self._files_at = now
            if self._download.look():
                self.stirred_at = now
                if self._may_fetch():
                    self.progress = StartMoment(StartPhase.FETCH, self._download.share, self._download.detail)
        if now - self._cpu_at >= _LOOK_AT_CPU_S and pid is not None:
            seconds, before = cpu_seconds(pid), self._cpu_s
            if before is not None and seconds - before >= IDLE_CPU * (now - self._cpu_at):
                self.stirred_at = now
            self._cpu_at, self._cpu_s = now, seconds

    def _may_fetch(self) -> bool:
        """Whether a download explains the wait: vLLM reports that it loads, and downloads first, without a word."""
        moment = self.progress
        is_loading = _RANK[moment.phase] <= _RANK[StartPhase.LOAD] and moment.share is None
        return is_loading or moment.phase is StartPhase.FETCH


def phase_at_end(lines: Iterable[str], seen: StartPhase | None) -> StartPhase:
    """The phase in which a start ended. ``seen`` is the last one that was seen, which its last lines may have left."""
    progress = StartProgress()
    for line in lines:
        progress.line(line)
    return max(progress.progress.phase, seen or StartPhase.BOOT, key=_RANK.__getitem__)


def _moment(phase: StartPhase, found: Mapping[str, str | None]) -> StartMoment:
    percent, done, of_all, detail = (found.get(name) for name in ("percent", "done", "all", "detail"))
    share = min(1.0, int(percent) / 100) if percent else None
    if done and of_all and int(of_all) > 0:
        share = min(1.0, int(done) / int(of_all))
        detail = f"{done}/{of_all}"
    return StartMoment(phase, share, detail)
