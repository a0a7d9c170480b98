"""``python -m sage_inference``: the same program as ``sage-inference``."""

import sys

from sage_inference.cli.main import main

sys.exit(main())
