"""`python -m ics` is the command `ics`."""

import sys

from ics.cli import main

sys.exit(main())
