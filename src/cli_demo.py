"""`python src/cli_demo.py`: the terminal chat of August 2023; the same as `carellama chat`."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("chat", sys.argv[1:])
