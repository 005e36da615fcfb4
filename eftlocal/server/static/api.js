// What is asked of the server, with the key that a person gave once.
import { $, visible } from "./text.js";

const KEY = "eftlocal.key";
const WHY = {
  0: "The server cannot be reached. Is it still running?",
  429: "The server has too much to do. Wait a little.",
  503: "The model cannot answer now.",
};

export class RefusedError extends Error {
  constructor(status, told = "") {
    const said = WHY[status] ?? (status < 500 ? "The server refused this." : "The server failed.");
    super(told ? `${said} It says: ${told}` : said);
  }
}

const reached = (work) => work.catch((error) => {
  throw error.name === "AbortError" ? error : new RefusedError(0);
});

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json" }, key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = "Bearer " + key;
  const response = await reached(fetch(path, { ...options, headers }));
  if (response.ok) return response;
  if (response.status === 401) {
    await wanted(key);
    return request(path, options);
  }
  const told = await response.json().catch(() => null);
  throw new RefusedError(response.status, visible(told?.error?.message ?? response.statusText));
}

export const get = async (path) => (await request(path)).json();

// Gives the chunks of an answer as they come.
export async function* streamed(body, signal) {
  const options = { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal };
  const response = await request("/v1/chat/completions", options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let left = "", read = {}; !read.done;) {
    read = await reached(reader.read());
    const events = (left + (read.value ?? "")).split("\n\n");
    left = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue; // a sign of life
      if (event === "data: [DONE]") return;
      const chunk = JSON.parse(event.slice(6));
      const { type, message } = chunk.error ?? {};
      if (type) throw new RefusedError(type === "invalid_request_error" ? 400 : 503, visible(message));
      yield chunk;
    }
  }
  throw new RefusedError(0, "the answer broke off");
}

// Asks for the key, once for all requests that want one.
let asking = null;
function wanted(refused) {
  if (refused !== sessionStorage.getItem(KEY)) return Promise.resolve(); // another was given since
  asking ??= new Promise((resolve, reject) => {
    const dialog = $("key"), text = $("key-text");
    $("key-why").textContent = refused ? "That key is not the server’s. Which one is?" : "This server wants a key.";
    text.value = dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (!dialog.returnValue) return reject(new RefusedError(401, "without its key nothing is answered"));
      sessionStorage.setItem(KEY, text.value.trim());
      return resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
