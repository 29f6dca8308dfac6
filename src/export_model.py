"""`python src/export_model.py`: the export script of August 2023; the same as `carellama export`."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("export", sys.argv[1:])
