"""`python src/cli_demo.py`: the seed's terminal chat; carellama chat is the same verb."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("chat", sys.argv[1:])
