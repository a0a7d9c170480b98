"""The engines, up and healthy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.bench.gpu.asking import ask, chat
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, markdown
from tests.bench.gpu.run import EngineMissing, Row, Run
from tests.bench.gpu.specs import SPECS, Role


def play(run: Run, options: Options) -> None:
    """Starts what does not run. ``engines`` must become healthy. ``also`` may, soon after them."""
    must, also = options.words("engines"), options.words("also")
    for name in (*must, *also):
        if name not in run.engines.live or not run.engines.alive(name):
            run.engines.launch(name)
    took = run.engines.wait(must, min(options.number("within"), run.left_s()))
    took |= run.engines.wait(also, min(options.number("patience"), run.left_s()))
    missing = [name for name in must if took[name] is None]
    if missing:
        raise EngineMissing(", ".join(missing))
    for name, seconds in took.items():
        if seconds is None:
            run.say(f"{name} is left out")
            continue
        run.step(f"start/{name}/{run.engines.live[name].pid}", 0, partial(_first, run, name, seconds))


def _first(run: Run, name: str, seconds: float) -> Row:
    """The first answer: an engine that is healthy may still be unable to compute."""
    spec, url = SPECS[name], run.engines.url(name)
    if spec.role is Role.CHAT:
        answer = ask(url, "/v1/chat/completions", chat(spec.model, 8), 120)
    elif spec.role is Role.EMBEDDING:
        answer = ask(url, "/v1/embeddings", {"model": spec.model, "input": ["a river"]}, 120)
    else:
        body = {"model": spec.model, "text_1": "a river", "text_2": ["a lake", "a shoe"]}
        answer = ask(url, "/score", body, 120)
    variant = run.engines.live[name].variant
    set_up = [] if run.simulated else run.engines.set_up_lines(name)
    return {
        "engine": name,
        "healthy_s": seconds,
        "variant": variant,
        "first_answer": answer.status_code,
        "set_up": set_up,
    }


def table(rows: Sequence[Row]) -> list[str]:
    lines = [[row.get(name) for name in ("engine", "healthy_s", "variant", "first_answer")] for row in rows]
    return markdown(("engine", "healthy after s", "variant", "first answer"), lines)


PART = Part(
    "start",
    "start engines, and wait until they answer",
    play,
    table,
    cap_s=400,
    defaults={"engines": "a+b+e", "also": "r+s+t", "within": "240", "patience": "45"},
)
