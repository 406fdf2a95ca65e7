"""Puts this directory on the path, as it is where `make parity` runs the same modules without pytest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
