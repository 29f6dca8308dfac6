"""`python src/train_bash.py`: the seed's training script; carellama train is the same verb."""

import sys

from carellama.cli import call

if __name__ == "__main__":
    call("train", sys.argv[1:])
