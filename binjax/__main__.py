"""``python -m binjax`` is the ``binjax`` command."""

import sys

from binjax.cli import main

sys.exit(main())
