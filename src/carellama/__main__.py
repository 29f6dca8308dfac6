"""`python -m carellama` is the `carellama` command."""

from carellama.cli import main

if __name__ == "__main__":
    main()
