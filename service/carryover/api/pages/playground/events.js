/** Following a session: Server-Sent Events, read with fetch, which sends an API key. */

import { alarm, sleep } from "./dom.js";
import { BASE, authorization } from "./service.js";

const RETRY = 1000; // milliseconds

/** Call `heard` with each step that is committed, and with null at other changes. */
export async function follow(where, heard, signal) {
  for (let last; !signal.aborted; await sleep(RETRY)) {
    const headers = { Accept: "text/event-stream", ...authorization(), ...(last && { "Last-Event-ID": last }) };
    try {
      const response = await fetch(new URL(where, BASE), { headers, signal, cache: "no-store" });
      if (response.status >= 400 && response.status < 500 && response.status !== 429) return;
      for await (const event of events(response.body)) {
        last = event.id ?? last;
        if (event.event === "step") heard(event.data.step);
        if (event.event === "state") heard(null);
        if (event.event === "deleted" || event.event === "expired")
          return alarm(`${event.data.session} is ${event.event}.`);
      }
    } catch {} // the connection was lost, or closed
  }
}

/** Yield the fields of each event, with `data` parsed. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const found = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
      if (found.data) yield { ...found, data: JSON.parse(found.data) };
    }
  }
}
