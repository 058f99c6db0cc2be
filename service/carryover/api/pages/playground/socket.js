/** Steps over one WebSocket: the lines of `:stream`, one a message. */

import { BASE, key, problem } from "./service.js";

/** It fails where there is no WebSocket, as behind some proxies. */
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

/** The response to a line; null if the connection was lost, and the line may have run. */
async function ask(socket, waiting, line) {
  const response = await new Promise((resolve) => {
    if (socket.readyState !== WebSocket.OPEN) return resolve(null);
    waiting.push(resolve);
    socket.send(JSON.stringify(line));
  });
  if (!response || response.type === "urn:carryover:stream-ended") return null;
  if (response.status) throw problem(response.status, response.detail);
  return response;
}
