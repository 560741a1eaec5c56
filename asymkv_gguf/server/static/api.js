// The server's HTTP API: requests, errors in one sentence, and the stream of a chat.

let apiKey = sessionStorage.getItem("asymkv.key") ?? "";

export function key() {
  return apiKey;
}

/** Kept for this tab only. */
export function setKey(value) {
  apiKey = value.trim();
  if (apiKey) sessionStorage.setItem("asymkv.key", apiKey);
  else sessionStorage.removeItem("asymkv.key");
}

/** What the server said, or why nothing came; `status` is 0 when nobody answered. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.name = "ServerError";
    this.status = status;
  }
}

function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ServerError(`The server at ${location.host} does not answer. Is asymkv-gguf serve running?`);
  }
  if (!response.ok) throw new ServerError(await messageOf(response), response.status);
  return response;
}

async function messageOf(response) {
  const body = await response.text().catch(() => "");
  try {
    const parsed = JSON.parse(body);
    const message = parsed.error?.message ?? parsed.detail ?? parsed.message;
    if (typeof message === "string" && message) return message;
  } catch {
    // not JSON: a proxy's page, of no use to the reader
  }
  return `The server answered ${response.status} ${response.statusText}`.trim();
}

export async function get(path, signal) {
  return (await send(path, { signal })).json();
}

/** The chunks of a streamed chat completion, as the server sends them. */
export async function* chat(payload, signal) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(payload),
    signal,
  });
  let finished = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message ?? "The server stopped with an error", 500);
    finished ||= chunk.choices?.some((choice) => choice.finish_reason) ?? false;
    yield chunk;
  }
  if (!finished) throw new ServerError("The connection to the server broke off before the answer was whole.");
}

/** The data of server-sent events: lines may end in LF or CRLF, comments keep the connection alive. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } catch (error) {
    if (isAbort(error)) throw error;
    if (error instanceof ServerError) throw error;
    throw new ServerError("The connection to the server broke off before the answer was whole.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
