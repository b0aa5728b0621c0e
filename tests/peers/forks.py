"""boto3 and the AWS CLI, each in a process of its own that has loaded them already: loading takes half a second
of processor, and tests start some seventy. What a process reads of its environment it reads after it began."""

import multiprocessing
import os
import sys

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["boto3", "awscli.clidriver"])


class Forked:
    """Looks like `subprocess.Popen` of a program with its three files piped, text."""

    def __init__(self, work, env, *words):
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        self.args = [work.__name__, *words]
        self.process = CONTEXT.Process(target=_begin, args=(theirs, dict(env), work, words), daemon=True)
        self.process.start()
        for end in theirs:
            end.close()
        self.stdin, self.stdout, self.stderr = (
            open(os.dup(end.fileno()), mode) for end, mode in (
                (pipes[0][1], "w"), (pipes[1][0], "r"), (pipes[2][0], "r")))
        for own, other in pipes:
            own.close()
            other.close()

    def wait(self, seconds=None):
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self):
        self.process.kill()


def _begin(ends, env, work, words):
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    # Where the AWS CLI has its own data, it said as it was loaded.
    env.setdefault("AWS_DATA_PATH", os.environ.get("AWS_DATA_PATH", ""))
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))
    sys.argv = ["aws", *words]
    work()


def aws():
    """The AWS CLI."""
    import awscli.clidriver
    sys.exit(awscli.clidriver.main())


def boto():
    """Each line asks STS who this is, by a session of the default chain."""
    import boto3
    import botocore.exceptions
    session = boto3.Session()
    for _ in sys.stdin:
        try:
            print("OK", session.client("sts").get_caller_identity()["Arn"], flush=True)
        except botocore.exceptions.BotoCoreError as fault:
            print("NO", " ".join(str(fault).split()), flush=True)
