"""`python -m raysft.cli`."""

import sys

from raysft.cli.main import main

sys.exit(main())
