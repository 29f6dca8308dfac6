"""`python src/api_demo.py`: the server of August 2023; the same as `carellama api`."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("api", sys.argv[1:])
