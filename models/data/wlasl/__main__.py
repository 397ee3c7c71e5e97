"""``python -m models.data.wlasl check DIR``: report what a data directory holds and lacks."""

import sys

from models.data.wlasl.check import main

sys.exit(main())
