#!/usr/bin/env python3
"""Every script of the tests compiles; shell scripts parse."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
faults = 0
for path in sorted([*ROOT.glob("tests/**/*"), ROOT / ".ci/run"]):
    if not path.is_file() or "__pycache__" in path.parts:
        continue
    with open(path, "rb") as file:
        first = file.readline(200)
    try:
        if path.suffix == ".py" or b"python3" in first:
            compile(path.read_text(), str(path), "exec")
        elif first.startswith(b"#!") and b"bash" in first:
            subprocess.run(["bash", "-n", str(path)], check=True)
    except (SyntaxError, subprocess.CalledProcessError) as fault:
        faults += 1
        print(f"error: {path.relative_to(ROOT)}: {fault}")
sys.exit(1 if faults else 0)
