"""Puts this folder's `targets` and the inference tests' `known` within reach (tests run with --import-mode=importlib)."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "inference")]
