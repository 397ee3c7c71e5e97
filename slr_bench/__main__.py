"""``python -m slr_bench``."""

import os
import sys

if __name__ == "__main__":
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and sys.path[0] != own:  # -m puts the working directory first, with any queue.py in it
        del sys.path[0]
    from slr_bench.cli import main

    main()
