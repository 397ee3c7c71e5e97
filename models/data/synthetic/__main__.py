"""``python -m models.data.synthetic``: render a synthetic data set."""

import sys

from models.data.synthetic.dataset import main

if __name__ == "__main__":
    sys.exit(main())
