"""``python -m sage_inference``: the same program as ``sage-inference``."""

import os
import sys

# ``-m`` puts the current directory first. A file there that is named like a module of Python would be imported
# instead of that module. The package itself was found already, so the directory can go.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - pathlib would be imported first
    del sys.path[0]

from sage_inference._entry import main  # noqa: E402

sys.exit(main())
