#!/usr/bin/env python3
"""An agent in Python, with nothing but the standard library: it asks for an export, waits for people,
answers what they ask back, does its work with what it was given, and gives it back.

    . DIR/env && tests/e2e/agent.py DATASET ROWS
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

SIDECAR = os.environ["GRANTWRIGHT_SIDECAR"]


def call(method, path, body=None):
    """One call; what is refused is an answer too, with `code`, `detail` and `next`."""
    with open(os.environ["GRANTWRIGHT_TOKEN_FILE"]) as file:  # it changes when the sidecar starts
        headers = {"Authorization": f"Bearer {file.read()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
                urllib.request.Request(SIDECAR + path, data, headers, method=method), timeout=90) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as refused:
        problem = json.load(refused)
        if problem["code"] in ("broker_away", "busy", "being_issued"):
            time.sleep(int(refused.headers.get("Retry-After") or 1))
            return {"state": "pending", "request_id": problem.get("request_id", "")}
        sys.exit(f"refused ({problem['code']}): {problem['detail']} {problem['next']}")


def answer(question):
    """Where a model would think. Tell the truth: people decide by it."""
    return f"You asked “{question}”. It is for the weekly sales report, ticket SALES-12."


def main(dataset, rows):
    ask = {"scope": "demo.export", "params": {"dataset": dataset, "rows": rows},
           "reason": "weekly sales report", "task": "SALES-12"}
    state = call("POST", "/v1/credentials", ask)
    while state["state"] == "pending":
        if "question" in state:
            print(f"{state['question']['by']} asks: {state['question']['text']}", flush=True)
            call("POST", f"/v1/requests/{state['request_id']}/answer",
                 {"text": answer(state["question"]["text"])})
        elif "link" in state:
            print(f"request {state['request_id']} waits for people: {state['link']}", flush=True)
        state = call("GET", f"/v1/requests/{state['request_id']}?wait=30s")
    if state["state"] != "granted":
        sys.exit(f"{state['state']}: {state['reason']}")
    # Narrowed or not: what counts is what was granted.
    params = state.get("params", ask["params"])
    token = state["credential"]["token"]
    print(f"exporting {params['rows']} rows of {params['dataset']} with a token of {len(token)} characters")
    call("POST", f"/v1/requests/{state['request_id']}/release")
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
