#!/usr/bin/env python3
"""The load that a broker is built for (deploy/build): what it does all day, and each kind of it for some
seconds. It measures nothing; a broker whose counters say nothing of a path has it small and slow."""

import json
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("bench", "system", ".")]
os.chdir(ROOT)
os.environ.setdefault("BENCH_ROUNDS", "1")

from gauge import MANY_ASKS, Bare, ask, enrolled  # noqa: E402
from harness import Demo  # noqa: E402
from lives import keys, stand  # noqa: E402
from rows import sts_session, vote  # noqa: E402

SECONDS = 2


def routine(home, *what):
    """Few callers, many, and many on several connections."""
    for callers, connections in ((1, 1), (64, 1), (64, 4)):
        for load in ("load", "light"):
            ask(home, callers, connections, SECONDS, what, load)


def main():
    line, csr, _ = keys()
    own = stand()
    try:
        home = enrolled(own.demo)
        for scope, params in (("bench.jwt", {"dataset": "b-#"}), ("bench.ssh", {"job": "b-#", "key": line}),
                              ("bench.x509", {"csr": csr, "service": "b-#"})):
            routine(home, scope, json.dumps(params))
    finally:
        own.end()
    with Bare(sts_session()) as sts, \
            Demo(GRANTWRIGHT_DEMO_ASKS_PER_SECOND=MANY_ASKS, AWS_ENDPOINT_URL_STS=sts.tcp, AWS_ACCESS_KEY_ID="key",
                 AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1") as demo:
        home = enrolled(demo)
        routine(home)
        routine(home, "aws.s3-read", '{"bucket":"demo","prefix":"b-#/"}')
        code, out, err = demo.cli("audit", "verify", timeout=300)
        if code != 0:
            raise RuntimeError(f"the log does not verify: {out}{err}")
    vote()


if __name__ == "__main__":
    main()
