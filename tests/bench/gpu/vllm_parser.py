"""Run by the check in a process of its own: vLLM's parser and its configuration, for each engine's arguments.

Reads a JSON list of ``[name, arguments]``, and writes one JSON object a line.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any

from tests.bench.gpu.fake_nvml import FakeNvml


def main() -> None:
    wanted = json.load(sys.stdin)
    if "--fake-gpu" in sys.argv:
        FakeNvml().install()
    # vLLM is not among the packages that this project is checked with.
    load: Any = importlib.import_module
    load("vllm.entrypoints.openai.api_server")
    cli = load("vllm.entrypoints.openai.cli_args")
    parsers = load("vllm.utils.argparse_utils")
    engines = load("vllm.engine.arg_utils")
    for name, arguments in wanted:
        found: dict[str, Any] = {"name": name}
        try:
            given = cli.make_arg_parser(parsers.FlexibleArgumentParser()).parse_args(arguments)
            cli.validate_parsed_serve_args(given)
            config = engines.AsyncEngineArgs.from_cli_args(given).create_engine_config()
            found["config"] = {
                "kv_cache_bytes": config.cache_config.kv_cache_memory_bytes,
                "compilation": str(config.compilation_config.mode),
                "cudagraphs": str(config.compilation_config.cudagraph_mode),
                "runner": config.model_config.runner_type,
            }
        except SystemExit as error:
            found["error"] = f"the parser ended with status {error.code}: see above"
        except Exception:
            found["error"] = traceback.format_exc()[-1500:]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
