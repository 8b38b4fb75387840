"""`python -m markovae` is `markovae`."""

import sys

from markovae.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
