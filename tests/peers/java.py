"""The client made with the AWS SDK for Java v2: Maven brings the packages, once, into target/peers/java."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from . import apt, lock

HERE = Path(__file__).parent / "awsjava"
JAR, LOADED = "client.jar", "loaded.jsa"
NOBODY = {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1", "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
          "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobodys", "AWS_EC2_METADATA_DISABLED": "true"}
TOOLS = {"javac": "default-jdk-headless", "mvn": "maven"}


def folder(root):
    return Path(root) / "target" / "peers" / "java"


def command(root):
    """With its classes as they were in memory when that was kept, where this Java can use it."""
    place = folder(root).resolve()
    return _java(place, f"-XX:SharedArchiveFile={place / LOADED}")


def _java(place, *flags):
    jars = [place / JAR, *sorted((place / "lib").glob("*.jar"))]
    # One short life: no second compiler, few threads; and nothing but the client writes lines.
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-Xlog:disable", *flags,
            "-cp", ":".join(map(str, jars)), "AwsJava"]


def _wanted():
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(HERE.iterdir()) if p.is_file())).hexdigest()


def ready(root):
    return bool(shutil.which("java")) and _made(folder(root)) and (folder(root) / JAR).exists()


def _made(place):
    stamp = place / "made-from"
    return stamp.exists() and stamp.read_text() == _wanted()


def prepare(root, say):
    """Makes it where it is not there yet; returns None or the reason why not."""
    missing = apt.install([package for tool, package in TOOLS.items() if not shutil.which(tool)], say)
    if missing:
        return missing
    with lock.held(root, "java"):
        if ready(root):
            return None
        place = folder(root).resolve()
        return (None if _made(place) else _make(place, say)) or _keep(place)


def _make(place, say):
    say(f"   making {place}: the AWS SDK for Java v2")
    shutil.rmtree(place, ignore_errors=True)
    (place / "classes").mkdir(parents=True)
    for words in (["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies",
                   f"-DoutputDirectory={place / 'lib'}", "-DincludeScope=runtime"],
                  ["javac", "-d", str(place / "classes"), "-cp", f"{place / 'lib'}/*", str(HERE / "AwsJava.java")]):
        missing = _done(words)
        if missing:
            return missing
    (place / "made-from").write_text(_wanted())
    return None


def _keep(place):
    """What is loaded for a call that nobody answers, as it is in memory: starting takes a third less."""
    part, jar = place / f"{LOADED}.part", place / f"{JAR}.part"
    missing = _done(["jar", "cf", str(jar), "-C", str(place / "classes"), "."])
    if not missing:
        jar.rename(place / JAR)
        # A Java that cannot starts from the jars.
        if not _done(_java(place, f"-XX:ArchiveClassesAtExit={part}"), "go\n"):
            part.rename(place / LOADED)
    return missing


def _done(words, said=""):
    done = subprocess.run(words, input=said, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, **NOBODY})
    if done.returncode != 0:
        return f"`{' '.join(words)[:200]}` failed: {done.stdout.strip()[-400:]}"
    return None
