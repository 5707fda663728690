"""Texts of mixed length, and what identical matrices are."""

from __future__ import annotations

import numpy as np

import tiny

MIXED = [" ".join(tiny.TEXTS[i % len(tiny.TEXTS)] for i in range(start, start + 1 + start % 4)) for start in range(40)]
MIXED[3] = ""
MIXED[17] = "  old   city \n music "


def assert_identical(found, expected):
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
