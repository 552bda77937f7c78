"""`python -m grizz`: the same as the `grizz` command."""

import sys

from grizz.cli import main

if __name__ == "__main__":
    sys.exit(main())
