"""Puts this folder's `small_runs` module within reach of the tests (they run with --import-mode=importlib)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
