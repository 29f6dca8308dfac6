"""`python src/web_demo.py`: the web page of August 2023; the same as `carellama web`."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("web", sys.argv[1:])
