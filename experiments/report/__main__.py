"""`python -m experiments.report DIR...`: see `experiments/report/run.py`."""

import sys

from experiments.report.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
