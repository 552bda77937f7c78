"""Starts Grizz from a clone: `python grizz.py --help`. The program itself is the package beside this file."""

import runpy
import sys

if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("Grizz needs Python 3.11 or newer; this is {}.{}.".format(*sys.version_info[:2]))
    try:
        # Not an import: tools that read imports would take this file for the package of the same name.
        runpy.run_module("grizz", run_name="__main__")
    except ModuleNotFoundError as error:
        if (error.name or "grizz").partition(".")[0] == "grizz":
            raise
        sys.exit(f"Grizz needs the Python package {error.name!r}: run `make run`, or `pip install -e .` and try again.")
