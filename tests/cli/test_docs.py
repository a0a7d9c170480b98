"""``sage docs`` shows the installed documents: formatted on a terminal, as Markdown in a pipe."""

from __future__ import annotations

import codecs
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sage_inference
from sage_inference.cli.documents import text_of, topics
from sage_inference.cli.markdown import formatted
from tests.support.gateway import clean_environment

FOLDER = Path(sage_inference.__file__).parent / "docs"
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from sage_inference._entry import main; sys.argv[0] = 'sage'; sys.exit(main())",
]
ESCAPE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def piped(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], env=clean_environment(home), capture_output=True, text=True, check=False
    )


class Screen:
    """A command on a terminal of its own, 80 columns wide."""

    def __init__(self, home: Path, *args: str, **environ: str) -> None:
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
        env = clean_environment(home)
        env.pop("NO_COLOR", None)
        env |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"} | environ
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *args], env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.terminal = ours

    def until(self, text: str) -> str:
        while text not in self.shown:
            assert self._read(), f"the terminal closed after {self.shown!r}"
        return self.shown

    def end(self) -> str:
        """All that the terminal got; the exit status is 0."""
        while self._read():
            pass
        os.close(self.terminal)
        assert self.process.wait(timeout=20) == 0, self.shown
        return self.shown

    def _read(self) -> bool:
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # the last process that had the terminal is gone
            return False
        self.shown = (self.shown + self._decoder.decode(data)).replace("\r\n", "\n")
        return bool(data)


def test_without_a_topic_each_document_has_a_line(tmp_path: Path) -> None:
    shown = piped(tmp_path, "docs")
    assert shown.returncode == 0
    rows = [line.split("  ", 1) for line in shown.stdout.splitlines()]
    assert [topic for topic, _ in rows] == sorted(file.stem for file in FOLDER.glob("*.md"))
    assert all(len(summary.strip()) > 10 for _, summary in rows)
    assert shown.stderr == ""


@pytest.mark.parametrize("word", ["prefill_decode", "prefill-decode", "Prefill_Decode", "prefill_decode.md"])
def test_into_a_pipe_goes_the_markdown_itself(tmp_path: Path, word: str) -> None:
    shown = piped(tmp_path, "docs", word)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == (FOLDER / "prefill_decode.md").read_text()


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("shceduling", 'unknown topic "shceduling"; did you mean scheduling?'),
        ("zzz", 'unknown topic "zzz"'),
        ("", 'unknown topic ""'),
        ("../python", 'unknown topic "../python"; did you mean python?'),
        ("/etc/passwd", 'unknown topic "/etc/passwd"'),
    ],
)
def test_an_unknown_topic_is_wrong_usage_and_names_the_topics(tmp_path: Path, word: str, hint: str) -> None:
    failed = piped(tmp_path, "docs", word)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.splitlines() == [f"error: {hint}", f"hint: one of {', '.join(topics())}"]


def test_more_than_one_topic_is_wrong_usage(tmp_path: Path) -> None:
    assert piped(tmp_path, "docs", "api", "python").returncode == 2


def test_a_reader_that_leaves_early_is_no_error_of_ours(tmp_path: Path) -> None:
    env = clean_environment(tmp_path)
    running = subprocess.Popen(
        [*COMMAND, "docs", "python"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    running.stdout.close()
    assert b"Traceback" not in running.communicate()[1]


def test_a_terminal_gets_formatted_text_in_colour(tmp_path: Path) -> None:
    shown = Screen(tmp_path, "docs", "embeddings", PAGER="cat").end()
    assert "\x1b[1m" in shown
    assert "**" not in shown
    assert "| --" not in shown
    assert (
        ESCAPE.sub("", shown).splitlines()[0]
        == "Embeddings: how texts of different callers share engine calls"
    )
    assert max(len(line) for line in ESCAPE.sub("", shown).splitlines()) <= 80


@pytest.mark.parametrize(
    ("args", "environ"),
    [(("--no-color",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"}), ((), {"PAGER": "tail -n +1"})],
)
def test_colour_is_left_out_where_it_is_not_wanted_or_not_understood(
    tmp_path: Path, args: tuple[str, ...], environ: dict[str, str]
) -> None:
    shown = Screen(tmp_path, *args, "docs", "operations", **{"PAGER": "cat"} | environ).end()
    assert "\x1b" not in shown
    assert "\nsystemd\n" in shown


@pytest.mark.parametrize("pager", ["", "cat", "no-such-program --flag", "'open quote"])
def test_without_a_pager_the_text_is_printed(tmp_path: Path, pager: str) -> None:
    assert "Two names" in Screen(tmp_path, "docs", "operations", PAGER=pager).end()


def test_a_pager_gets_the_text_and_may_be_left_early(tmp_path: Path) -> None:
    assert "Python" in Screen(tmp_path, "docs", "python", PAGER="head -n 3").end()
    assert Screen(tmp_path, "docs", "python", PAGER="true").end() == ""
    assert Screen(tmp_path, "docs", "python", PAGER="false").end() == ""


def test_ctrl_c_belongs_to_the_pager(tmp_path: Path) -> None:
    script = tmp_path / "pager"
    script.write_text(
        "#!/bin/sh\ncat > /dev/null\ntrap 'echo left; exit 0' INT\necho ready\nwhile :; do sleep 0.05; done\n"
    )
    script.chmod(0o700)
    screen = Screen(tmp_path, "docs", "api", PAGER=str(script))
    screen.until("ready")
    os.killpg(screen.process.pid, signal.SIGINT)
    assert screen.end().endswith("left\n")


@pytest.mark.parametrize("topic", topics())
def test_no_cell_of_a_table_is_cut_off(topic: str) -> None:
    text = text_of(topic)
    shown = formatted(text, width=80, coloured=False)
    assert shown.count("…") <= text.count("…")
    assert all(len(line) <= 80 or line.strip() in text for line in shown.splitlines())  # code alone is longer


def test_code_is_not_folded() -> None:
    long = f"sage inference start {'--llm-backend http://127.0.0.1:8001 ' * 5}--background"
    assert f"  {long}\n" in formatted(f"Before\n\n```sh\n{long}\n```\n\nAfter\n", width=40, coloured=False)


def test_the_list_and_a_piped_document_load_no_rich(tmp_path: Path) -> None:
    code = (
        "import sys; from sage_inference.cli.main import main; main(sys.argv[1:], program='sage');"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'rich', 'markdown_it', 'yaml', 'msgspec', 'psutil'}))"
    )
    for args in (["docs"], ["docs", "api"], ["--help"]):
        shown = subprocess.run(
            [sys.executable, "-c", code, *args],
            env=clean_environment(tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.splitlines()[-1] == "[]"


def test_the_hint_and_the_help_name_the_program_that_was_called(tmp_path: Path) -> None:
    assert "sage docs TOPIC shows one of them" in Screen(tmp_path, "docs").end()
    command = [
        "sage-inference" if word == "sage" else word.replace("'sage'", "'sage-gw'") for word in COMMAND
    ]
    helped = subprocess.run(
        [*command, "docs", "--help"],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sage-gw docs scheduling" in helped.stdout
    assert "sage docs" not in helped.stdout
