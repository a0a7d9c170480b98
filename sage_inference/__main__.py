"""``python -m sage_inference``: the same program as ``sage-inference``."""

import os
import sys

# ``-m`` puts the current directory first, and a file there named like a module of Python would be imported in
# its stead. The package itself has been found.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - pathlib would be imported first
    del sys.path[0]

from sage_inference._entry import main  # noqa: E402

sys.exit(main())
