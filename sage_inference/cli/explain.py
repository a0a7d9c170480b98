"""``explain``: why a request was sent where it was, and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sage_inference.cli import table, terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.numbers import milliseconds
from sage_inference.cli.options import Json, NoColor
from sage_inference.visible import visible

app = plain_app()
_HEADERS = ("INSTANCE", "COST ms", "BACKLOG ms", "PROMPT ms", "CACHED", "RUNNING", "")


@app.command(cls=PlainCommand)
def explain(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The answer's x-request-id.")],
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show why a request was sent where it was.

    The gateway remembers the last 1024 requests that it sent: sizes and times, never texts.

    \b
    Examples:
      sage inference explain req-5f0c9d2a71b400000012
      sage inference explain my-own-id --json
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.explain import explain as ask

    found = ask(Paths.resolve(), request_id)
    if as_json:
        terminal.say_json(found)
        return
    for line in explanation(found["attempts"], table.width_of_terminal()):
        terminal.say_made(line)


def explanation(attempts: Sequence[dict[str, Any]], width: int | None) -> list[str]:
    """The lines, safe to print. ``width`` bounds the tables of candidates. Instances that were chosen are green."""
    lines = _of_request(attempts[-1])
    for number, attempt in enumerate(attempts, 1):
        lines += _of_attempt(number, attempt, width)
    return lines


def _of_request(attempt: dict[str, Any]) -> list[str]:
    about = "about " if attempt["prompt_tokens_estimated"] else ""
    tenant = f", tenant {attempt['key']}" if attempt["key"] else ""
    what = (
        f"{attempt['route']}, model {attempt['model']}, {about}{attempt['prompt_tokens']:,} prompt tokens"
        f"{tenant}, priority {_priority(attempt)}"
    )
    slo = attempt["slo"]
    wanted = (
        f"SLO: first token in {milliseconds(slo['ttft_ms'])} ms ({_ttft_from(attempt)}), "
        f"{milliseconds(slo['tpot_ms'])} ms a token after it ({slo['tpot_from']})"
    )
    return [visible(what), visible(wanted)]


def _priority(attempt: dict[str, Any]) -> str:
    from sage_inference.types import RequestPriority

    return RequestPriority(attempt["priority"]).name.lower()


def _ttft_from(attempt: dict[str, Any]) -> str:
    """The origin of the time to the first token, and its factor if the priority lengthens the stated time."""
    slo = attempt["slo"]
    origin: str = slo["ttft_from"]
    times = slo.get("ttft_times", 1)  # an older gateway may still run
    return origin if times == 1 else f"{times:g} x {origin}, for {_priority(attempt)}"


def _of_attempt(number: int, attempt: dict[str, Any], width: int | None) -> list[str]:
    leg = f" ({attempt['leg']})" if attempt["leg"] else ""
    own = f", as {attempt['request_id']}" if attempt["caller_request_id"] else ""
    sent = f"attempt {number}{leg}{own}: {attempt['instance']}, {attempt['reason']}; waited {attempt['waited_ms']:.0f} ms"
    rows = [
        [
            each["instance"],
            *(f"{each[name]:.1f}" for name in ("cost_ms", "backlog_ms", "prompt_ms")),
            str(each["cached_tokens"]),
            str(each["running"]),
            "chosen" if each["chosen"] else "",
        ]
        for each in attempt["candidates"]
    ]
    styles = ["green" if each["chosen"] else None for each in attempt["candidates"]]
    candidates = table.render(_HEADERS, rows, width=width, styles=styles, styled_column=0)
    return ["", visible(sent), *candidates.split("\n"), visible(_outcome(attempt))]


def _outcome(attempt: dict[str, Any]) -> str:
    parts = _predicted(attempt)
    if attempt["first_byte_ms"] is not None:
        parts.append(_came(attempt))
    if attempt["outcome"] is None:
        return "; ".join([*parts, "still running"])
    status = f" (status {attempt['status']})" if attempt["status"] else ""
    parts.append(f"{attempt['outcome']}{status} after {attempt['duration_ms']:.0f} ms")
    if attempt["completion_tokens"]:
        parts.append(f"{attempt['completion_tokens']:,} tokens")
    return "; ".join(parts)


def _came(attempt: dict[str, Any]) -> str:
    """The time of the first byte. The verdict counts from the arrival, because an SLO does.

    An error, a prefill or an answer in one piece gets no verdict, because its first byte is not the caller's first token.
    """
    sent_ms = attempt["first_byte_ms"]
    arrived_ms = attempt["waited_ms"] + sent_ms
    came = f"came {sent_ms:,.0f} ms after it was sent, {arrived_ms:,.0f} ms after arrival"
    if attempt["status"] not in (None, 200) or attempt["leg"] == "prefill" or attempt.get("in_one_piece"):
        return came
    late_ms = arrived_ms - attempt["slo"]["ttft_ms"]
    if late_ms <= 0:
        return f"{came} (in time)"
    return f"{came} (late by {late_ms:,.0f} ms)" if late_ms >= 1 else f"{came} (late by less than 1 ms)"


def _predicted(attempt: dict[str, Any]) -> list[str]:
    first_byte, prompt = attempt["predicted_first_byte_ms"], attempt.get("predicted_prompt_ms")
    if not attempt.get("in_one_piece"):  # an older gateway may still run
        return [] if first_byte is None else [f"first byte predicted after {first_byte:.0f} ms"]
    if first_byte is not None:
        return [f"whole answer predicted after {first_byte:.0f} ms, its prompt after {prompt:.0f} ms"]
    whole = "the first byte comes with the whole answer"
    return [whole] if prompt is None else [f"prompt predicted to be done after {prompt:.0f} ms", whole]
