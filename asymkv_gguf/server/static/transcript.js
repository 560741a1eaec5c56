// Turns as list items: text, what it took, what went wrong, and what can be done with them.

import { copyText, render } from "./markdown.js";
import { count, duration, plural, rate } from "./units.js";

const LONG = 1500; // characters of a user's turn that are shown at once

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(label, action, description) {
  const node = element("button", "quiet", label);
  node.type = "button";
  if (description) node.setAttribute("aria-label", description);
  node.addEventListener("click", () => action(node));
  return node;
}

export class Transcript {
  #list = document.getElementById("turns");
  #scroller = document.getElementById("conversation");
  #actions;
  #items = [];

  /** `actions`: {edit(index, text), remove(index), regenerate(index)}. */
  constructor(actions) {
    this.#actions = actions;
  }

  show(turns) {
    this.#items = turns.map((turn, index) => (turn.role === "user" ? this.#user(turn, index) : this.#answer(turn, index)));
    this.#list.replaceChildren(...this.#items.map(({ item }) => item));
    document.getElementById("empty").hidden = turns.length > 0;
    this.toEnd();
  }

  toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** The last turn has changed. Somebody who has scrolled up to read stays there. */
  update(turn) {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight < 48;
    this.#items.at(-1)?.update(turn);
    if (atEnd) this.toEnd();
  }

  #user(turn, index) {
    const item = element("li", "turn user");
    item.append(element("h3", "who", "You"));
    const body = element("div", "body plain");
    const long = turn.text.length > LONG;
    body.textContent = long ? shortened(turn.text) : turn.text;
    item.append(body);
    const row = element("div", "actions");
    if (long) {
      const label = `Show all ${count(turn.text.length)} characters`;
      row.append(
        button(label, (node) => {
          body.textContent = turn.text;
          node.remove();
        }),
      );
    }
    row.append(
      button("Edit", () => this.#edit(item, turn, index), "Edit this message"),
      button("Copy", (node) => copyText(turn.text, node), "Copy this message"),
      button("Delete", () => this.#actions.remove(index), "Delete this message and its answer"),
    );
    item.append(row);
    return { item, update() {} };
  }

  #edit(item, turn, index) {
    const form = element("form", "edit");
    const label = element("label", "unseen", "Edited message");
    const area = element("textarea");
    area.id = `edit-${index}`;
    label.htmlFor = area.id;
    area.value = turn.text;
    area.rows = Math.min(14, turn.text.split("\n").length + 1);
    const previous = [...item.children].slice(1);
    const cancel = () => {
      item.replaceChildren(item.firstChild, ...previous);
      item.querySelector(".actions button")?.focus();
    };
    const send = element("button", "primary", "Send");
    send.type = "submit";
    const row = element("div", "actions shown");
    row.append(send, button("Cancel", cancel));
    form.append(label, area, row);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim()) this.#actions.edit(index, area.value);
    });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    item.replaceChildren(item.firstChild, form);
    area.focus();
  }

  /** Opens the editor of a user's turn. */
  edit(index, turn) {
    const shown = this.#items[index];
    if (shown) this.#edit(shown.item, turn, index);
  }

  #answer(turn, index) {
    const item = element("li", "turn answer");
    item.append(element("h3", "who", "Answer"));
    const reading = element("div", "reading");
    const bar = element("progress");
    bar.setAttribute("aria-label", "Text read");
    const readingText = element("p");
    reading.append(readingText, bar);
    const thinking = element("details", "thinking");
    const thoughts = element("div", "thoughts");
    thinking.append(element("summary", "", "Thinking"), thoughts);
    const body = element("div", "body");
    const failure = element("div", "failure");
    failure.setAttribute("role", "alert");
    const meta = element("p", "meta");
    const actions = element("div", "actions");
    actions.append(
      button("Copy", (node) => copyText(split(turn.text)[1], node), "Copy this answer"),
      button("Regenerate", () => this.#actions.regenerate(index), "Regenerate this answer"),
    );
    item.append(reading, thinking, body, failure, meta, actions);
    const update = (changed) => {
      item.dataset.state = changed.state;
      const waiting = changed.state === "streaming" && !changed.text;
      reading.hidden = !waiting;
      if (waiting) showReading(readingText, bar, changed.progress);
      const [thought, said] = split(changed.text);
      thinking.hidden = !thought;
      render(thoughts, thought);
      render(body, said);
      body.hidden = !said;
      failure.hidden = changed.state !== "failed";
      if (changed.state === "failed" && failure.dataset.message !== changed.error) {
        failure.dataset.message = changed.error;
        failure.replaceChildren(
          element("p", "", changed.error),
          button("Retry", () => this.#actions.regenerate(index)),
        );
      }
      meta.textContent = metaOf(changed);
      meta.hidden = !meta.textContent;
      actions.hidden = changed.state === "streaming" || changed.state === "failed";
    };
    update(turn);
    return { item, update };
  }
}

/** What a model thinks first, between the tags that such models write, and what it then says. */
export function split(text) {
  const [, thought, said] = /^\s*<think>([^]*?)(?:<\/think>([^]*))?$/.exec(text) ?? [];
  return thought === undefined ? ["", text] : [thought.trim(), (said ?? "").trimStart()];
}

/** Start and end of a long text, cut between words. */
function shortened(text) {
  const start = text.slice(0, 500).replace(/\s+\S*$/, "");
  const end = text.slice(-250).replace(/^\S*\s+/, "");
  return `${start} …\n\n… ${end}`;
}

function showReading(text, bar, progress) {
  if (!progress || !progress.total) {
    text.textContent = "Waiting for the server";
    bar.removeAttribute("value");
    return;
  }
  const { total, cache = 0, processed, time_ms: time } = progress;
  bar.max = total;
  bar.value = processed;
  const parts = [`Reading ${count(processed)} of ${plural(total, "token")}`];
  if (cache) parts.push(`${count(cache)} already in the cache`);
  const fresh = processed - cache;
  if (fresh > 0 && time > 0) {
    parts.push(rate(fresh, time / 1000));
    if (processed < total) parts.push(`${duration(((total - processed) * time) / fresh / 1000)} left`);
  }
  text.textContent = parts.join(" · ");
}

function metaOf({ state, usage, seconds, finish }) {
  const parts = [];
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${plural(usage.prompt_tokens, "token")} read, ${count(cached)} of them from the cache`);
    parts.push(`${count(usage.completion_tokens)} written`);
    if (seconds > 0 && usage.completion_tokens > 1) parts.push(rate(usage.completion_tokens - 1, seconds));
  }
  if (state === "stopped") parts.push("stopped");
  if (finish === "length") parts.push("cut at the token limit");
  return parts.join(" · ");
}
