/** Following a session: Server-Sent Events, read with fetch, which can send an API key as a header. */

import { sleep } from "./dom.js";
import { BASE, authorization } from "./service.js";

const RETRY = 1000; // milliseconds

/** Call `heard` with each event of a path, until `signal` aborts or the service says that there are no more. */
export async function follow(where, heard, signal) {
  for (let last; !signal.aborted; await sleep(RETRY)) {
    const headers = { Accept: "text/event-stream", ...authorization(), ...(last && { "Last-Event-ID": last }) };
    try {
      const response = await fetch(new URL(where, BASE), { headers, signal, cache: "no-store" });
      if (response.status >= 400 && response.status < 500 && response.status !== 429) return;
      for await (const event of events(response.body)) {
        last = event.id ?? last;
        heard(event);
        if (event.event === "deleted" || event.event === "expired") return;
      }
    } catch {} // the connection was lost, or closed
  }
}

/** Yield the events of a stream: the fields of each, of which `data` is parsed. */
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
