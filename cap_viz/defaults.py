"""Defaults of the command line and the dashboard; shipped runs are made with the same values."""

from __future__ import annotations

N_CALIBRATION = 48
SEED = 0
MAIN_CRITERIA = ("cap", "wanda", "magnitude", "global_magnitude")
SPARSITIES = (0.1, 0.2, 0.5)
