"""`python src/train_bash.py`: the training script of August 2023; the same as `carellama train`."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("train", sys.argv[1:])
