"""What is taken where nothing else is asked for, in the shell and on pages; shipped runs are made with the same."""

from __future__ import annotations

N_CALIBRATION = 48
SEED = 0
MAIN_CRITERIA = ("cap", "wanda", "magnitude", "global_magnitude")
SPARSITIES = (0.1, 0.2, 0.5)
