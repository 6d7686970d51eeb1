"""`python -m caffelite` is the command `caffelite`."""

import sys

from caffelite.cli import main

sys.exit(main())
