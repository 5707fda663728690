"""Runs code in a fresh, offline Python process, with or without milco_hf on its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

# An editable install puts milco_hf on every process's path; this finder takes it away again.
_WITHOUT_MILCO_HF = """
import sys, importlib.abc
class NoMilcoHf(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "milco_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoMilcoHf())
"""


def run(code: str, *arguments: str | Path, cwd: Path, milco_hf: bool, environment: dict[str, str] | None = None):
    """Runs `code`, which puts its answer into `result`, and returns that answer through JSON."""
    script = ("" if milco_hf else _WITHOUT_MILCO_HF) + dedent(code) + "\nimport json; print(json.dumps(result))"
    # an own cache for remote code, so that no earlier copy is what gets loaded
    settings = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(cwd) / "modules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **settings, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
