"""Settings for the whole test run; nothing that a single test needs stands here.

One thread in each test process: pytest runs two, and results then do not depend on the number of
cores. It must be set before torch is first imported. Hypothesis draws the same examples every time
and has no time limits, so that a busy machine cannot fail a test.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

# Scripts to be run by hand; one imports its neighbour, as a script may and a test may not.
collect_ignore = ["benchmarks"]
