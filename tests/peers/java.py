"""The client made with the AWS SDK for Java v2: Maven brings the packages, once, into target/peers/java."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from . import apt, lock

HERE = Path(__file__).parent / "awsjava"
TOOLS = {"javac": "default-jdk-headless", "mvn": "maven"}


def folder(root):
    return Path(root) / "target" / "peers" / "java"


def command(root):
    place = folder(root)
    # One short life: no second compiler, and few threads.
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
            "-cp", f"{place / 'classes'}:{place / 'lib'}/*", "AwsJava"]


def _wanted():
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(HERE.iterdir()) if p.is_file())).hexdigest()


def ready(root):
    stamp = folder(root) / "made-from"
    return bool(shutil.which("java")) and stamp.exists() and stamp.read_text() == _wanted()


def prepare(root, say):
    """Makes it where it is not there yet; returns None or the reason why not."""
    missing = apt.install([package for tool, package in TOOLS.items() if not shutil.which(tool)], say)
    if missing:
        return missing
    with lock.held(root, "java"):
        return None if ready(root) else _make(root, say)


def _make(root, say):
    place = folder(root)
    say(f"   making {place}: the AWS SDK for Java v2")
    shutil.rmtree(place, ignore_errors=True)
    (place / "classes").mkdir(parents=True)
    for words in (["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies",
                   f"-DoutputDirectory={(place / 'lib').resolve()}", "-DincludeScope=runtime"],
                  ["javac", "-d", str(place / "classes"), "-cp", f"{place / 'lib'}/*", str(HERE / "AwsJava.java")]):
        done = subprocess.run(words, stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode != 0:
            return f"`{' '.join(words)}` failed: {done.stdout.strip()[-400:]}"
    (place / "made-from").write_text(_wanted())
    return None
