"""A load of its own process: distinct asks over a unix socket, each once, on so many connections at a time.
`distinct.py SOCKET WORD COUNT CONNECTIONS`; prints {"status": how many} as JSON."""

import collections
import json
import queue
import sys
import threading

from harness import Unix


def main(socket, word, count, connections):
    numbers, answers, lock = queue.SimpleQueue(), collections.Counter(), threading.Lock()
    for n in range(int(count)):
        numbers.put(n)

    def worker():
        line, got = Unix(socket, timeout=120), collections.Counter()
        while True:
            try:
                n = numbers.get_nowait()
            except queue.Empty:
                break
            body = json.dumps({"scope": "demo.read", "params": {"dataset": f"{word}-{n}"}, "reason": "a load"})
            try:
                line.request("POST", "/v1/credentials", body, {"Content-Type": "application/json"})
                reply = line.getresponse()
                reply.read()
                got[str(reply.status)] += 1
            except OSError as fault:
                got[type(fault).__name__] += 1
                line.close()
        line.close()
        with lock:
            answers.update(got)
    workers = [threading.Thread(target=worker) for _ in range(int(connections))]
    for it in workers:
        it.start()
    for it in workers:
        it.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
