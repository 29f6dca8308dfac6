"""`python src/export_model.py`: the seed's export script; carellama export is the same verb."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("export", sys.argv[1:])
