"""`python src/web_demo.py`: the seed's web page; carellama web is the same verb."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("web", sys.argv[1:])
