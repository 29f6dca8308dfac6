"""`python src/api_demo.py`: the seed's server; carellama api is the same verb."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("api", sys.argv[1:])
