// An agent in TypeScript, with nothing but Node: it asks for an export, follows the request as server-sent
// events, answers what people ask back, does its work with what it was given, and gives it back.
//
//     . DIR/env && node --experimental-strip-types tests/e2e/agent.ts DATASET ROWS

import { readFile } from "node:fs/promises";

type Question = { id: string; by: string; text: string };
type State = {
    state: string;
    request_id: string;
    reason?: string;
    link?: string;
    question?: Question;
    params?: { dataset: string; rows: number };
    credential?: { token: string };
};

const { GRANTWRIGHT_SIDECAR: sidecar, GRANTWRIGHT_TOKEN_FILE: tokenFile } = process.env;

async function call(method: string, path: string, body?: unknown): Promise<Response> {
    const token = await readFile(tokenFile!, "utf8"); // it changes when the sidecar starts
    const reply = await fetch(sidecar + path, {
        method,
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!reply.ok) {
        const problem = await reply.json();
        throw new Error(`refused (${problem.code}): ${problem.detail} ${problem.next}`);
    }
    return reply;
}

/** Where a model would think. Tell the truth: people decide by it. */
const answer = (question: string) =>
    `You asked “${question}”. It is for the weekly sales report, ticket SALES-12.`;

/** Each state of the request, until it is granted or has ended. */
async function* follow(id: string): AsyncGenerator<State> {
    const reply = await call("GET", `/v1/requests/${id}/events`);
    let text = "";
    for await (const piece of reply.body!.pipeThrough(new TextDecoderStream())) {
        text += piece;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
            const data = text.slice(0, end).split("\n").find((line) => line.startsWith("data: "));
            if (data) {
                yield JSON.parse(data.slice(6));
            }
        }
    }
}

async function main(dataset: string, rows: number): Promise<void> {
    const asked = { dataset, rows };
    const reply = await call("POST", "/v1/credentials", {
        scope: "demo.export", params: asked, reason: "weekly sales report", task: "SALES-12",
    });
    let state: State = await reply.json();
    if (state.state === "pending") {
        console.log(`request ${state.request_id} waits for people: ${state.link}`);
        let answered = "";
        for await (state of follow(state.request_id)) {
            if (state.question && state.question.id !== answered) {
                answered = state.question.id;
                console.log(`${state.question.by} asks: ${state.question.text}`);
                await call("POST", `/v1/requests/${state.request_id}/answer`, {
                    text: answer(state.question.text),
                });
            }
        }
    }
    if (state.state !== "granted") {
        throw new Error(`${state.state}: ${state.reason}`);
    }
    // Narrowed or not: what counts is what was granted.
    const granted = state.params ?? asked;
    const token = state.credential!.token;
    console.log(`exporting ${granted.rows} rows of ${granted.dataset} with a token of ${token.length} characters`);
    await call("POST", `/v1/requests/${state.request_id}/release`);
    console.log("done");
}

main(process.argv[2], Number(process.argv[3])).catch((error: Error) => {
    console.error(error.message);
    process.exit(1);
});
