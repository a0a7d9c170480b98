"""What the documents and the help name exists, and what users can name is documented.

Read from the tables of the documents and from the sources, so that an entry without a counterpart fails by its name.
"""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import sage_inference
from sage_inference.cli.cluster.group import ClusterGroup
from sage_inference.cli.config.group import ConfigGroup
from sage_inference.cli.engine.group import EngineGroup
from sage_inference.cli.exit_codes import MEANINGS, ExitCode
from sage_inference.cli.inference import InferenceGroup
from sage_inference.cli.keys.group import KeysGroup
from sage_inference.cli.lazy import Lazy
from sage_inference.cli.main import Root
from sage_inference.cli.schemas import ANSWERS
from sage_inference.cli.service.group import ServiceGroup
from sage_inference.cli.statusschemas import STATUS
from sage_inference.config.settings import ServerSettings
from sage_inference.gateway import access_log
from sage_inference.gateway.api import admin, keys, live, model_documents, ui, usage
from sage_inference.gateway.metrics.page import exposition
from sage_inference.requests.routes import ROUTES
from sage_inference.types import EngineState
from tests.support.inprocess import gateway

PACKAGE = Path(sage_inference.__file__).parent
DOCS = {page.stem: page.read_text() for page in (PACKAGE / "docs").glob("*.md")}
ALL_DOCS = "\n".join([*DOCS.values(), (PACKAGE.parent / "README.md").read_text()])
SOURCES = {file: file.read_text() for file in PACKAGE.rglob("*.py")}
CODE = "\n".join(SOURCES.values())
COMMANDS: dict[str, Lazy] = {
    **{name: lazy for name, lazy in Root.lazy.items() if name != "inference"},
    **{
        name: lazy
        for name, lazy in InferenceGroup.lazy.items()
        if name not in ("cluster", "config", "engine", "keys", "service")
    },
    **{f"keys {name}": lazy for name, lazy in KeysGroup.lazy.items()},
    **{f"service {name}": lazy for name, lazy in ServiceGroup.lazy.items()},
    **{f"cluster {name}": lazy for name, lazy in ClusterGroup.lazy.items()},
    **{f"engine {name}": lazy for name, lazy in EngineGroup.lazy.items()},
    **{f"config {name}": lazy for name, lazy in ConfigGroup.lazy.items()},
}
WORD = re.compile(r"`([^`]+)`")


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of the table under the first line of ``page`` that begins with ``head``."""
    lines = DOCS[page][DOCS[page].index(f"\n{head}") + 1 :].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    assert found
    return found


def words(text: str) -> set[str]:
    return set(WORD.findall(text))


def command_of(name: str) -> Any:
    return typer.main.get_command(import_module(COMMANDS[name].module).app)


# Commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_read(name: str) -> None:
    command = command_of(name)
    function = inspect.unwrap(command.callback)
    [definition] = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(function))))  # type: ignore[arg-type]
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
    ]
    read = {
        node.id
        for statement in definition.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    options = {parameter.name for parameter in command.params if parameter.expose_value}
    assert options <= read, f"{name} does not read {options - read}"
    # ``main`` reads this one from the arguments.
    assert {p.name for p in command.params if not p.expose_value} <= {"no_color"}


def test_defaults_in_the_help_of_start_are_those_of_the_settings() -> None:
    shown = {
        parameter.name: found[1]
        for parameter in command_of("start").params
        if (found := re.search(r"\[(.*)\]", parameter.help or ""))
    }
    assert shown == {"host": ServerSettings().host, "port": str(ServerSettings().port)}


def test_every_option_of_the_simulator_is_read() -> None:
    tree = ast.parse((PACKAGE / "simulator" / "options.py").read_text())
    options = {
        node.args[0].value.lstrip("-").replace("-", "_")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }  # fmt: skip
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert options
    assert options <= read, options - read


def test_the_table_of_commands_has_all_of_them_with_options_that_exist() -> None:
    table = [cells[0] for cells in rows("commands", "| `sage inference …`")]
    assert {cell.strip("`").split(" ")[0] for cell in table} == set(InferenceGroup.lazy)
    for cell in table:
        name = cell.strip("`").split(" ")[0]
        if name == "config":
            assert set(re.findall(r"\w+", cell)) == {"config", *ConfigGroup.lazy}
            continue
        if name in ("cluster", "engine", "keys", "service"):
            name = " ".join(cell.strip("`").split(" ")[:2])
        known = {option for parameter in command_of(name).params for option in parameter.opts}
        assert set(re.findall(r"(?<!\w)--?\w[\w-]*", cell)) <= known


def test_exit_codes_are_those_of_the_table_and_each_is_used() -> None:
    assert {int(cells[0]) for cells in rows("commands", "| exit code")} == {code.value for code in ExitCode}
    assert set(MEANINGS) == set(ExitCode)
    elsewhere = "\n".join(text for file, text in SOURCES.items() if file.name != "exit_codes.py")
    for code in ExitCode:
        assert f"ExitCode.{code.name}" in elsewhere, code


def properties(schema: Any) -> set[str]:
    return set(schema["properties"]) - {"schema"}


def test_keys_of_status_are_those_of_its_schema() -> None:
    table = rows("commands", "| key | |")
    named = set().union(*[words(cells[0]) for cells in table])
    assert named == {
        f"{key}[]" if key in ("instances", "engines", "sources") else key for key in properties(STATUS)
    }
    for cells in table:
        [*keys] = words(cells[0])
        if keys == ["instances[]"]:
            described = words(cells[1]) - {state.value for state in EngineState} | {"name", "kind"}
            assert described == set(STATUS["properties"]["instances"]["anyOf"][0]["items"]["properties"])
        if keys == ["engines[]"]:
            engine = STATUS["properties"]["engines"]["anyOf"][0]["items"]["properties"]
            assert set(engine) <= words(cells[1])
            assert set(engine["state"]["enum"]) <= words(cells[1])
        if keys == ["sources[]"]:
            source = STATUS["properties"]["sources"]["anyOf"][0]["items"]["properties"]
            assert words(cells[1]) == {*source, *source["kind"]["enum"], *source["state"]["enum"]}
        if keys == ["state"]:
            assert words(cells[1]) == set(STATUS["properties"]["state"]["enum"])


@pytest.mark.parametrize("command", sorted(ANSWERS.keys() - {"status"}))
def test_keys_of_other_answers_are_those_of_their_schemas(command: str) -> None:
    table = {name: cells[1] for cells in rows("commands", "| command | keys") for name in words(cells[0])}
    assert command in table, f"{command} --json is not documented"
    assert properties(ANSWERS[command]) <= words(table[command])


# The gateway


def test_headers_of_ours_are_documented_and_those_documented_exist() -> None:
    pattern = r"x-sage-[a-z]+(?:-[a-z]+)*"
    written = set(re.findall(pattern, CODE.replace("x-sage-prefill-%b", "x-sage-prefill-instance")))
    assert written == set(re.findall(pattern, ALL_DOCS))


def test_the_documented_metrics_are_those_of_the_page() -> None:
    with gateway() as running:
        page = running.ask(lambda one: exposition(one.gateway))
    families = re.findall(r"# HELP (\S+) (.*)\n# TYPE \S+ (\S+)", page)
    table = [tuple(cells) for cells in rows("operations", "| metric | type | |")]
    assert table == [(f"`{name}`", kind, meaning) for name, meaning, kind in families]


def test_metrics_that_are_named_elsewhere_exist() -> None:
    for name in set(re.findall(r"\bsage_[a-z_]+\b", ALL_DOCS)) - {"sage_inference"}:
        assert (
            f'"{name}' in CODE or f"'{name}" in CODE or f" {name}" in CODE or f"| `{name}` |" in ALL_DOCS
        ), name


def test_every_admin_route_is_documented_with_its_methods() -> None:
    documented = {cells[0].strip("`") for cells in rows("api", "| admin route | |")}
    routes = {
        f"{method} {route.path}".replace(":path", "").replace("request_id", "request id")
        for route in (
            *admin.routes,
            *live.routes,
            *model_documents.routes,
            *ui.admin_routes,
            *usage.routes,
            *keys.routes,
        )
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert documented == routes


# Words in quotes: to parse all sources would take seconds.
STRINGS = frozenset(re.findall(r"""["'](\w+)["']""", CODE))


def test_documented_error_codes_exist_and_those_that_exist_are_documented() -> None:
    table = rows("api", "| status | when")
    documented = set().union(*[words(cells[2]) for cells in table]) - {"previous_response_id"}
    errors = ast.parse((PACKAGE / "gateway" / "errors.py").read_text())
    # A code is the fourth argument of an error.
    sent = {
        argument.value
        for node in ast.walk(errors)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ApiError"
        for argument in [*node.args[3:4], *[k.value for k in node.keywords if k.arg == "code"]]
        if isinstance(argument, ast.Constant)
    }
    sent -= {"model", "request_id"}  # names of fields
    assert documented <= STRINGS
    assert {code for code in map(str, sent) if f"`{code}`" not in DOCS["api"]} == set()


def test_documented_statuses_are_those_that_the_gateway_gives() -> None:
    documented = {
        int(found) for cells in rows("api", "| status | when") for found in re.findall(r"\d{3}", cells[0])
    }
    errors = ast.parse((PACKAGE / "gateway" / "errors.py").read_text())
    given = {
        node.value
        for node in ast.walk(errors)
        if isinstance(node, ast.Constant) and type(node.value) is int and 400 <= node.value < 600
    }
    assert given <= documented, given - documented


def test_routes_of_the_relay_are_those_of_the_table() -> None:
    table = "\n".join(cells[0] for cells in rows("api", "| route | |"))
    documented = {word.split(" ")[-1] for word in words(table) if "/" in word}
    relayed = set(ROUTES)
    assert {path for path in documented if "{" not in path} == relayed | {"/"}


def test_fields_of_the_access_log_are_those_of_the_table() -> None:
    documented = set().union(*[words(cells[0]) for cells in rows("operations", "| field | |")])
    source = ast.parse(Path(access_log.__file__).read_text())
    written = {
        k.arg for node in ast.walk(source) if isinstance(node, ast.Call) for k in node.keywords if k.arg
    }
    written |= {"request_id", "method", "path", "status", "outcome"}
    assert documented == written - {"extra", "placed"}


# The environment

ENVIRONMENT = re.compile(r"\b(?:SAGE|DASHSCOPE|OPENAI|SSL)_[A-Z]+(?:_[A-Z]+)*\b")
EXAMPLES = {"SAGE_KEY", "SAGE_INFERENCE_SERVER", "SAGE_TEST_ENGINES"}  # of a user's own, and of the tests
OF_CLIENTS = {"OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE_URL"}  # variables of other programs


def test_documented_variables_are_read_and_those_read_are_documented() -> None:
    documented = set(ENVIRONMENT.findall(ALL_DOCS)) - EXAMPLES - OF_CLIENTS
    literals = "\n".join(STRINGS)
    for name in documented:
        start = name.removesuffix("_MODEL").removesuffix("_API_KEY").removesuffix("_BASE_URL")
        assert name in literals or start in literals, f"{name} is not read"
    read = {name for text in STRINGS if ENVIRONMENT.fullmatch(text) for name in [text]} - EXAMPLES
    assert {name for name in read if not any(known.startswith(name) for known in documented)} == set()
