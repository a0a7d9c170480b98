"""Runs ``argv[1]``, a module of the package that this file lies in, as ``python -m`` would.

The package is loaded from its own directory. ``sys.path`` stays as the interpreter made it.
"""

import sys


def _load_package() -> None:
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    home = Path(__file__).resolve().parent
    spec = spec_from_file_location(
        "sage_inference", home / "__init__.py", submodule_search_locations=[str(home)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["sage_inference"] = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    import runpy

    del sys.argv[0]
    _load_package()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
