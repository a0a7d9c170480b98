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
        ("sage inference config set scheduling.pol", {"scheduling.policy", "scheduling.policies"}),
        ("sage inference start --scheduling-policy r", {"round_robin", "random"}),
        ("sage inference config set scheduling.policy po", {"power_of_two"}),
        ("sage inference config set --key server.insecure --value ", {"true", "false"}),
        ("sage inference config set nope ", set()),
        ("sage inference config show --output ", {"table", "json", "yaml"}),
        ("sage inference logs --level w", {"warning"}),
        ("sage inference bench --kind m", {"mixed"}),
        ("sage inference service ", {"install", "uninstall", "status"}),
        ("sage inference keys ", {"add", "list", "revoke"}),
        ("sage inference keys add ada --limit tokens", {"tokens_per_minute=", "tokens_per_day="}),
        ("sage inference keys add ada --priority n", {"normal"}),
        ("sage inference keys revoke ", set()),
        ("sage inference doc", {"doctor"}),
        ("sage inference grafana a", {"alerts"}),
        ("sage completion z", {"zsh"}),
        ("sage d", {"docs"}),
        ("sage docs p", {"prefill_decode", "python"}),
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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_waits_does_not_wait_for_rich(tmp_path: Path, shell: str) -> None:
    words = "sage inference st"
    env = clean_environment(
        tmp_path,
        _SAGE_COMPLETE=f"complete_{shell}",
        COMP_WORDS=words,
        COMP_CWORD="2",
        _TYPER_COMPLETE_ARGS=words,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    code = (
        "import atexit, sys; sys.argv[0] = 'sage';"
        "atexit.register(lambda: print('loaded', sorted({'rich', 'pydantic'} & set(sys.modules))));"
        "from sage_inference.cli.main import main; sys.exit(main([]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "status" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "loaded []"
