/** Steps over one WebSocket: the lines of `:stream`, one a message. */

import { BASE, Problem, key } from "./service.js";

/** Open the stream of a session; the promise fails where there is none, as behind a proxy that does not pass it on. */
export function connect(where) {
  const url = new URL(where, BASE);
  url.protocol = url.protocol.replace("http", "ws");
  const coded = btoa(key.get()).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const socket = new WebSocket(url, coded ? ["carryover", `carryover.bearer.${coded}`] : []);
  const waiting = [];
  socket.onmessage = ({ data }) => waiting.shift()?.(JSON.parse(data));
  socket.onclose = () => waiting.splice(0).forEach((respond) => respond(null));
  return new Promise((resolve, reject) => {
    socket.onerror = reject;
    socket.onopen = () => resolve({ ask: (line) => ask(socket, waiting, line), close: () => socket.close() });
  });
}

/** Return the response to a line; null where it was not run, or may not have been: the connection was lost. */
async function ask(socket, waiting, line) {
  const response = await new Promise((resolve) => {
    if (socket.readyState !== WebSocket.OPEN) return resolve(null);
    waiting.push(resolve);
    socket.send(JSON.stringify(line));
  });
  if (!response || response.type === "urn:carryover:stream-ended") return null;
  if (response.status) throw new Problem(response.status, response.detail);
  return response;
}
