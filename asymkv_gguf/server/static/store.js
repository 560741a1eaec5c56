// What the browser keeps: the conversation, settings and the state of the page.

export const CONVERSATION = "asymkv.conversation";
const SETTINGS = "asymkv.settings";
const VIEW = "asymkv.view";

function read(name, fallback) {
  try {
    const value = JSON.parse(localStorage.getItem(name));
    return value && typeof value === "object" ? value : fallback;
  } catch {
    return fallback;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Turns: {role: "user", text} or {role: "assistant", text, state, error?, usage?, seconds?}. */
export function loadTurns() {
  const turns = read(CONVERSATION, []);
  if (!Array.isArray(turns)) return [];
  for (const turn of turns) {
    if (turn.state === "streaming") turn.state = "stopped"; // the page was closed meanwhile
  }
  return turns.filter((turn) => typeof turn.text === "string" && (turn.role === "user" || turn.role === "assistant"));
}

/** False when the browser has no room for it. */
export function saveTurns(turns) {
  return write(CONVERSATION, turns);
}

export const settings = { system: "", temperature: "", top_p: "", max_tokens: "", seed: "", ...read(SETTINGS, {}) };

export function saveSettings() {
  write(SETTINGS, settings);
}

export const view = { cache: null, rows: "layers", group: "0", ...read(VIEW, {}) };

export function saveView() {
  write(VIEW, view);
}

/** The conversation as the API wants it: answers that never came are left out, neighbours of one role are joined. */
export function messages(turns) {
  const result = [];
  if (settings.system.trim()) result.push({ role: "system", content: settings.system });
  for (const turn of turns) {
    if (!turn.text) continue;
    const last = result.at(-1);
    if (last?.role === turn.role) last.content += `\n\n${turn.text}`;
    else result.push({ role: turn.role, content: turn.text });
  }
  return result;
}

/** Only what was set: the rest is the server's choice. */
export function sampling() {
  const chosen = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    const text = String(settings[name] ?? "").trim();
    if (text !== "" && Number.isFinite(Number(text))) chosen[name] = Number(text);
  }
  return chosen;
}
