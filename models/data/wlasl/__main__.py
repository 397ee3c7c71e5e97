"""``python -m models.data.wlasl check DIR``: what a data directory has and lacks."""

import sys

from models.data.wlasl.check import main

sys.exit(main())
