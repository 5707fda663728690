"""`python -m milco_hf.cli`, the same as `milco`."""

import sys

from milco_hf.cli.main import main

sys.exit(main())
