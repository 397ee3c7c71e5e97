"""``python -m slr_bench``."""

from slr_bench.cli import main

if __name__ == "__main__":
    main()
