// The page: what happens on which click and key.

import { get, key, setKey } from "./api.js";
import { CachePanel } from "./cache.js";
import { Conversation } from "./chat.js";
import { CONVERSATION, saveSettings, settings } from "./store.js";
import { Transcript, split } from "./transcript.js";
import { plural } from "./units.js";

const $ = (id) => document.getElementById(id);

const transcript = new Transcript({
  edit: (index, text) => destructive("The message was replaced, and what followed it.", () => conversation.edit(index, text)),
  remove: (index) => destructive("Message deleted.", () => conversation.remove(index)),
  regenerate: (index) => {
    const later = index + 1 < conversation.turns.length;
    const empty = !conversation.turns[index].text && !later; // an answer that failed, to be asked for again
    const text = later ? "The answer was replaced, and what followed it." : "The answer was replaced.";
    return destructive(empty ? "" : text, () => conversation.regenerate(index));
  },
});

const conversation = new Conversation({
  changed: () => transcript.show(conversation.turns),
  updated: (turn) => {
    drawSoon(turn);
    announce(turn, false);
  },
  began: () => {
    announced = 0;
    $("announcer").replaceChildren();
    showBusy(true);
    cache.start();
  },
  measured: ({ slot }) => cache.follow(slot),
  ended: (turn) => {
    transcript.update(turn);
    announce(turn, true);
    showBusy(false);
    cache.stop();
    if (!connected && turn.state === "done") connect(); // the server has come back
  },
  unauthorized: (message) => askForKey(message),
  full: () => tellOnce("This conversation is too long for the browser to keep; a reload will lose it."),
});

// where answers ended: the last token of an answer was sampled, and stands there all the same
const cache = new CachePanel(() =>
  conversation.turns.filter(({ usage }) => usage).map(({ usage }) => usage.prompt_tokens + usage.completion_tokens),
);

// --- drawing ---

let waitingTurn = null;

/** At most one drawing per frame, however fast tokens come. */
function drawSoon(turn) {
  if (waitingTurn === null) {
    requestAnimationFrame(() => {
      const last = conversation.turns.at(-1);
      if (waitingTurn === last) transcript.update(last);
      waitingTurn = null;
    });
  }
  waitingTurn = turn;
}

let announced = 0;

/** Screen readers get whole sentences: single tokens would be read as fragments. */
function announce(turn, all) {
  const rest = split(turn.text)[1].slice(announced);
  const end = all ? rest.length : rest.search(/[.!?:\n]\s[^]*$/) + 1;
  if (end > 0 && rest.slice(0, end).trim()) {
    const line = document.createElement("p");
    line.textContent = rest.slice(0, end).trim();
    $("announcer").append(line);
    announced += end;
  }
  if (all && turn.state === "stopped") $("announcer").append("Stopped.");
}

function showBusy(busy) {
  document.body.classList.toggle("busy", busy);
  const hadFocus = document.activeElement === (busy ? $("send") : $("stop"));
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  if (hadFocus) (busy ? $("stop") : $("prompt")).focus();
}

// --- notices, with a way back ---

let undo = null;
const told = new Set();

function tellOnce(text) {
  if (!told.has(text)) notice(text, null);
  told.add(text);
}

function notice(text, action) {
  undo = action;
  $("notice-text").textContent = text;
  $("undo").hidden = action === null;
  $("notice").hidden = false;
}

function clearNotice() {
  undo = null;
  $("notice").hidden = true;
}

async function destructive(text, action) {
  await conversation.stop(); // the answer as far as it came belongs to what can be brought back
  const before = [...conversation.turns];
  clearNotice();
  $("prompt").focus();
  const done = action();
  if (text) notice(text, () => conversation.replace(before));
  await done;
}

$("undo").addEventListener("click", () => {
  const action = undo;
  clearNotice();
  $("prompt").focus();
  action?.();
});

// --- the composer ---

let files = [];

function showFiles() {
  $("files").hidden = files.length === 0;
  $("files").replaceChildren(
    ...files.map((file, index) => {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.className = "quiet";
      remove.textContent = "Remove";
      remove.setAttribute("aria-label", `Remove ${file.name}`);
      remove.addEventListener("click", () => {
        files.splice(index, 1);
        showFiles();
        $("prompt").focus();
      });
      item.append(`${file.name}, ${plural(file.text.length, "character")} `, remove);
      return item;
    }),
  );
}

async function addFiles(list) {
  for (const file of list) {
    const bytes = await file.arrayBuffer();
    try {
      files.push({ name: file.name, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) });
    } catch {
      notice(`${file.name} is not UTF-8 text; save it as plain text first.`, null);
    }
  }
  showFiles();
  $("prompt").focus();
}

$("add-file").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  await addFiles([...$("file").files]);
  $("file").value = "";
});
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  addFiles([...event.dataTransfer.files]);
});

function fitPrompt() {
  const area = $("prompt");
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight * 0.35)}px`;
}

$("prompt").addEventListener("input", fitPrompt);
$("prompt").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !event.target.value && !conversation.busy) {
    const index = conversation.turns.findLastIndex(({ role }) => role === "user");
    if (index >= 0) {
      event.preventDefault();
      transcript.edit(index, conversation.turns[index]);
    }
  }
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (conversation.busy) return;
  // a file's text comes before the question, as on the command line
  const text = [...files.map((file) => file.text.trimEnd()), $("prompt").value.trim()].filter(Boolean).join("\n\n");
  if (!text) return;
  files = [];
  showFiles();
  $("prompt").value = "";
  fitPrompt();
  clearNotice();
  conversation.send(text);
});

$("stop").addEventListener("click", () => conversation.stop());
document.addEventListener("keydown", (event) => {
  // a dialog takes its own Escape
  if (event.key === "Escape" && conversation.busy && !document.querySelector("dialog[open]")) conversation.stop();
});

$("new").addEventListener("click", () => {
  if (conversation.turns.length) destructive("New conversation.", () => {
    cache.forget();
    return conversation.replace([]);
  });
  $("prompt").focus();
});

// --- dialogs ---

const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed"];

$("open-settings").addEventListener("click", () => {
  for (const name of FIELDS) $(name).value = settings[name];
  $("settings-key").value = key();
  $("settings").showModal();
});

$("settings").addEventListener("close", () => {
  for (const name of FIELDS) settings[name] = $(name).value;
  saveSettings();
  const changed = $("settings-key").value.trim() !== key();
  setKey($("settings-key").value);
  if (changed) connect();
});

$("settings").addEventListener("click", (event) => {
  if (event.target === $("settings")) $("settings").close(); // the backdrop
});

function askForKey(message) {
  if ($("key-dialog").open) return;
  $("key-message").textContent = message || "This server asks for a key.";
  $("key").value = "";
  $("key-dialog").returnValue = "";
  $("key-dialog").showModal();
}

$("key-cancel").addEventListener("click", () => $("key-dialog").close("cancel"));
$("key-dialog").querySelector("form").addEventListener("submit", () => {
  setKey($("key").value);
  connect();
  // the answer that was refused is asked for again
  const last = conversation.turns.at(-1);
  if (last?.state === "failed" && !last.text) conversation.regenerate(conversation.turns.length - 1);
});

// --- start ---

let connected = false;

async function connect() {
  connected = false;
  try {
    const models = (await get("v1/models")).data;
    $("model").textContent = models[0]?.id ?? "";
    $("model").title = $("model").textContent;
    connected = true;
  } catch (error) {
    $("model").textContent = error.status ? "" : "no connection";
    if (error.status === 401) {
      askForKey(key() ? error.message : "");
      return;
    }
  }
  await cache.refresh();
}

// a page that goes tears its requests, which is no failure
addEventListener("beforeunload", () => conversation.stop());
addEventListener("pagehide", () => {
  if (conversation.busy) conversation.save(); // else another tab may have saved since
});
// the conversation is one for all tabs
addEventListener("storage", (event) => {
  if (event.key === CONVERSATION && !conversation.busy && !document.querySelector(".edit")) conversation.restore();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) cache.refresh();
});
transcript.show(conversation.turns);
$("prompt").focus();
connect();
