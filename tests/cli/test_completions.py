"""The completion scripts in the repository are current, and what they call answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_inference.cli.complete import PROGRAMS, script
from tests.support.gateway import clean_environment

FOLDER = Path(__file__).parents[2] / "completions"
NAMES = {"bash": "{}.bash", "zsh": "_{}", "fish": "{}.fish"}


@pytest.mark.parametrize("shell", NAMES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_scripts_in_the_repository_are_those_the_program_prints(shell: str, program: str) -> None:
    kept = FOLDER / NAMES[shell].format(program)
    assert kept.read_text() == script(shell, program), f"write it anew: sage completion {shell} > {kept.name}"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sage inference st", {"start", "stop", "status"}),
        ("sage inference config set scheduling.", {"scheduling.policy", "scheduling.retries"}),
        ("sage inference start --scheduling-policy r", {"round_robin", "random"}),
        ("sage inference nope ", set()),
    ],
)
def test_words_are_offered(tmp_path: Path, words: str, offered: set[str]) -> None:
    env = clean_environment(
        tmp_path, _SAGE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
    )
    code = "import sys; sys.argv[0] = 'sage'; from sage_inference.cli.main import main; sys.exit(main([]))"
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert set(shown.stdout.split()) == offered
    assert "Traceback" not in shown.stderr
