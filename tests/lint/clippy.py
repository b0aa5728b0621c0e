"""Which of our crates clippy has seen as they are built now. The build shows it what it compiles
(tests/lint/rustc); what was built without it is left to `cargo clippy`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["cargo", "clippy", "--locked", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]


def watching():
    """The environment in which a build of ours shows clippy what it compiles; empty where there is no clippy,
    as `cargo clippy` then says."""
    if not shutil.which("clippy-driver"):
        return {}
    marks = ROOT / "target" / "clippy"
    (marks / "out").mkdir(parents=True, exist_ok=True)
    return {"RUSTC_WRAPPER": str(ROOT / "tests" / "lint" / "rustc"), "CLIPPY_MARKS": str(marks)}


def built():
    """What rustc wrote beside each of our programs and libraries: what it depends on. Clippy's own are left out."""
    folders = [ROOT / "target" / "release" / it for it in ("deps", "examples")]
    files = [(file, file.read_text()) for folder in folders for file in folder.glob("*.d")]
    return [file for file, text in files if re.search(r": (crates|tests)/", text) and ".clippy.toml" not in text]


def unseen():
    """Names of what clippy has not seen, or before its settings were changed."""
    settings = (ROOT / ".clippy.toml").stat().st_mtime

    def seen(file):
        mark = ROOT / "target" / "clippy" / file.stem
        return mark.exists() and mark.stat().st_mtime >= max(file.stat().st_mtime, settings)
    return [file.stem for file in built() if not seen(file)]


def mark():
    """All that is built was seen."""
    for file in built():
        (ROOT / "target" / "clippy" / file.stem).touch()


def left_out():
    """What is compiled only without tests, where clippy does not look."""
    for folder in ("crates", "tests"):
        for file in sorted((ROOT / folder).rglob("*.rs")):
            if "not(test" in file.read_text():
                yield f"{file.relative_to(ROOT)}: `not(test)`: clippy looks at what is built with its tests"


def probe():
    """Whether the build's own way to clippy still finds what it should: faults, in words."""
    yield from left_out()
    unused, unwrap = "fn unused() {}", "pub fn f(x: Option<u8>) -> u8 { x.unwrap() }"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, into, text, tests, good in (
                ("good", "deps", "pub fn f() {}", [], True), ("good_test", "deps", "pub fn f() {}", ["--test"], True),
                ("unused", "deps", unused, [], False), ("unused_test", "deps", unused, ["--test"], False),
                ("unwrap_test", "deps", unwrap, ["--test"], False), ("unwrap", "examples", unwrap, [], False)):
            for place in (folder / "out", folder / into):
                place.mkdir(exist_ok=True)
            (folder / f"{name}.rs").write_text(text)
            done = subprocess.run(
                [ROOT / "tests" / "lint" / "rustc", "rustc", "--crate-name", name, "--crate-type", "lib", *tests,
                 "--emit=metadata", "--out-dir", folder / into, "-C", "extra-filename=-1",
                 "--deny=clippy::unwrap_used", folder / f"{name}.rs"], capture_output=True, stdin=subprocess.DEVNULL,
                env={**os.environ, "CARGO_PRIMARY_PACKAGE": "1", "CLIPPY_MARKS": str(folder)})
            if ((done.returncode == 0), (folder / f"{name}-1").exists()) != (good, good):
                yield f"`{name}`: exit {done.returncode}: {done.stderr.decode()[-300:]}"


if __name__ == "__main__":
    faults = list(probe())
    print("\n".join(faults) or "clippy sees what is built")
    sys.exit(bool(faults))
