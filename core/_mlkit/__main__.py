"""`python -m mlkit` is the same as the `mlkit` command (torchrun needs a module)."""

import sys

from mlkit.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
