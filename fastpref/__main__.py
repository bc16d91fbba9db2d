"""``python -m fastpref``."""

import sys

from .cli import main

sys.exit(main())
