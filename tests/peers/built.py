"""Test programs that cargo built already, run by themselves.

Not by `cargo test --test NAME`: naming one chooses other features, and builds dependencies of its own.
"""

import json
import os
import subprocess
from pathlib import Path

PARTS = ["--locked", "--release", "--workspace", "--lib", "--bins", "--tests"]
# Some of them suites run. The others measure; clippy sees what is built.
EXAMPLES = ["--examples"]
CARGO_BUILD = ["cargo", "build", *PARTS, *EXAMPLES]
CARGO_TEST = ["cargo", "test", *PARTS, "--no-fail-fast"]
# Cargo runs what stands in comments apart from the rest.
CARGO_DOC = ["cargo", "test", "--locked", "--release", "--workspace", "--doc", "--no-fail-fast"]


def programs(root, name, env=None):
    """Those of this name, each with the folder to run it in."""
    done = subprocess.run([*CARGO_TEST, "--no-run", "--message-format", "json"], capture_output=True, cwd=root,
                          text=True, stdin=subprocess.DEVNULL, env=env or dict(os.environ))
    if done.returncode != 0:
        raise RuntimeError(f"the tests do not build: {done.stderr.strip()[-600:]}")
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = [(it["executable"], Path(it["manifest_path"]).parent) for it in told
             if it["reason"] == "compiler-artifact" and it["target"]["name"] == name and it["executable"]]
    if not found:
        raise RuntimeError(f"no test program `{name}` was built")
    return found


def ignored(root, name):
    """Runs the tests that programs leave to the suite that brings what they need; the exit code of the first
    that fails, and the output."""
    said = ""
    for program, folder in programs(root, name):
        done = subprocess.run([program, "--ignored"], cwd=folder, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said += done.stdout
        if done.returncode != 0:
            return done.returncode, said
    return 0, said
