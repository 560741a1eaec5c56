// The picture of the cache: asks the server for its slots, about once a second while it works, and draws them.

import { get } from "./api.js";
import { LEGEND, drawHistory, drawStrip, locate } from "./plots.js";
import { saveView, view } from "./store.js";
import { count, plural, short, size } from "./units.js";

const PERIOD = 250; // ms between two looks at the counters
const PICTURE_PERIOD = 1000; // and between two pictures, at least
const MOST_ROWS = 16; // more layers than that are sampled evenly
const MOST_SAMPLES = 600;

const $ = (id) => document.getElementById(id);

export class CachePanel {
  #slot = null; // the summary of the slot that is shown
  #slots = [];
  #rows = [];
  #span = 1; // tokens that the rows cover
  #samples = loadSamples();
  #working = null; // when the current work began, ms
  #workedBefore = this.#samples.at(-1)?.seconds ?? 0;
  #chosen = null; // a slot that the user picked, or that gave the last answer
  #loading = null;
  #timer = null;
  #nextPicture = 0; // ms
  #marks;

  /** `marks()` gives the positions where answers ended. */
  constructor(marks) {
    this.#marks = marks;
    for (const [index, cardinality] of LEGEND.entries()) {
      const item = document.createElement("li");
      item.className = `c${index}`;
      item.textContent = index === LEGEND.length - 1 ? `${cardinality}+` : String(cardinality);
      $("legend").append(item);
    }
    const open = view.cache ?? matchMedia("(min-width: 60rem)").matches;
    this.#show(open);
    $("toggle-cache").addEventListener("click", () => {
      view.cache = $("cache").hidden;
      saveView();
      this.#show(view.cache);
      if (view.cache) this.refresh();
    });
    $("refresh").addEventListener("click", () => this.refresh());
    $("slot").addEventListener("change", () => {
      this.#chosen = Number($("slot").value);
      this.refresh();
    });
    $("rows").addEventListener("change", () => {
      view.rows = $("rows").value;
      saveView();
      this.refresh();
    });
    $("group").addEventListener("change", () => {
      view.group = $("group").value;
      saveView();
      this.refresh();
    });
    $("strip").addEventListener("pointermove", (event) => this.#probe(event));
    $("strip").addEventListener("pointerleave", () => {
      $("probe").textContent = "";
    });
    new ResizeObserver(() => this.#draw()).observe($("cache"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  #show(open) {
    $("cache").hidden = !open;
    $("toggle-cache").setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("with-cache", open);
  }

  /** The server reads or writes from now on. */
  start() {
    this.#working ??= performance.now();
    this.#chosen = null; // the server picks one
    if (this.#timer === null) this.#tick();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#working !== null) this.#workedBefore += (performance.now() - this.#working) / 1000;
    this.#working = null;
    return this.refresh();
  }

  /** The slot that gave the answer. */
  follow(id) {
    this.#chosen = id;
  }

  /** Another conversation has another history. */
  forget() {
    this.#samples = [];
    this.#workedBefore = 0;
  }

  async #tick() {
    this.#timer = setTimeout(() => {}, 0); // marks that the loop is running
    const before = performance.now();
    const picture = before >= this.#nextPicture;
    await this.#once(picture);
    if (this.#working === null) return;
    const now = performance.now();
    // many layers take long to fetch: leave the server most of the time
    if (picture) this.#nextPicture = now + Math.max(PICTURE_PERIOD, 4 * (now - before));
    this.#timer = setTimeout(() => this.#tick(), PERIOD);
  }

  /** Numbers and, if it is open, the picture, as they are from now on. */
  async refresh() {
    await this.#loading;
    await this.#once(true);
  }

  /** One look at a time. */
  #once(picture) {
    this.#loading ??= this.#load(picture).finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  async #load(picture) {
    try {
      this.#slots = (await get("asymkv/slots")).slots;
    } catch (error) {
      this.#say(error.message);
      return;
    }
    const slot = this.#slots.find(({ id }) => id === this.#chosen) ?? this.#slots.find(({ busy }) => busy) ?? this.#same();
    if (!slot?.layers) {
      this.#say("This server keeps the stock cache: no slots are merged.");
      return;
    }
    this.#slot = slot;
    this.#sample(slot);
    this.#summary();
    if ($("cache").hidden || document.hidden) return;
    if (!picture) {
      this.#draw();
      return;
    }
    if (slot.live === 0) {
      this.#rows = [];
      this.#say("Nothing has been read yet. The picture comes with the first message.");
      return;
    }
    this.#pickers();
    try {
      this.#rows = await this.#fetchRows(slot);
      // the rows may be a few tokens younger than the counters
      this.#span = Math.max(1, slot.tokens, ...this.#rows.map((row) => (row.last.at(-1) ?? 0) + 1));
    } catch {
      return; // the slot is at work or was taken by somebody else; the next tick asks again
    }
    this.#say("");
    this.#draw();
  }

  /** The slot that was shown last, or the one that holds most. */
  #same() {
    return (
      this.#slots.find(({ id }) => id === this.#slot?.id) ?? [...this.#slots].sort((one, other) => other.tokens - one.tokens)[0]
    );
  }

  #fetchRows(slot) {
    const fetchRow = async (layer, group, label) => {
      const row = await get(`asymkv/slots/${slot.id}?layer=${layer}&group=${group}`);
      return { ...row, label };
    };
    if (view.rows !== "layers") {
      const layer = Math.min(Number(view.rows), slot.layers - 1);
      return Promise.all(range(slot.groups).map((group) => fetchRow(layer, group, slot.groups > 1 ? `h${group}` : `${layer}`)));
    }
    const n = Math.min(slot.layers, MOST_ROWS);
    const layers = range(n).map((i) => Math.round((i * (slot.layers - 1)) / Math.max(1, n - 1)));
    const group = Math.min(Number(view.group), slot.groups - 1);
    return Promise.all(layers.map((layer) => fetchRow(layer, group, String(layer))));
  }

  #sample({ id, tokens, live }) {
    const working = this.#working === null ? 0 : (performance.now() - this.#working) / 1000;
    const seconds = this.#workedBefore + working;
    const last = this.#samples.at(-1);
    if (last && last.id === id && last.tokens === tokens && last.live === live) return;
    if (last && last.id !== id) this.#samples = []; // another slot has another history
    this.#samples.push({ id, seconds, tokens, live });
    if (this.#samples.length > MOST_SAMPLES) this.#samples = this.#samples.filter((_, index) => index % 2 === 0);
    try {
      sessionStorage.setItem("asymkv.samples", JSON.stringify(this.#samples));
    } catch {
      // a reload then starts an empty plot
    }
  }

  /** The line in the header, shown also while the panel is closed. */
  #summary() {
    const { tokens, live } = this.#slot;
    $("toggle-cache").textContent = tokens ? `Cache ${short(live)} / ${short(tokens)}` : "Cache";
    $("toggle-cache").title = tokens ? `${plural(tokens, "token")} in ${plural(live, "slot")}` : "";
  }

  #say(message) {
    $("cache-message").textContent = message;
    $("cache-message").hidden = !message;
    $("cache-picture").hidden = message !== "";
    if (!$("cache").hidden && !message) this.#draw();
  }

  #pickers() {
    const { layers, groups } = this.#slot;
    fill($("slot"), this.#slots.map(({ id, busy }) => [String(id), busy ? `${id}, at work` : String(id)]), String(this.#slot.id));
    $("slot-picker").hidden = this.#slots.length < 2;
    fill(
      $("rows"),
      [["layers", "layers"], ...range(layers).map((layer) => [String(layer), groups > 1 ? `heads of layer ${layer}` : `layer ${layer}`])],
      view.rows,
    );
    if ($("rows").value !== view.rows) view.rows = "layers"; // kept from a model with more layers
    fill($("group"), range(groups).map((group) => [String(group), String(group)]), view.group);
    view.group = $("group").value;
    $("group-picker").hidden = groups < 2 || view.rows !== "layers";
  }

  #draw() {
    const slot = this.#slot;
    if (!slot || !this.#rows.length || $("cache").hidden || $("cache-picture").hidden) return;
    $("figure-tokens").textContent = count(slot.tokens);
    $("figure-slots").textContent = count(slot.live);
    $("memory-held").style.width = `${Math.min(100, (100 * slot.kv_bytes) / Math.max(1, slot.stock_kv_bytes))}%`;
    $("memory-text").textContent = `${size(slot.kv_bytes)} instead of ${size(slot.stock_kv_bytes)} for a full cache`;
    drawHistory($("history"), this.#samples, slot.capacity);
    drawStrip($("strip"), this.#rows, this.#span, this.#marks());
    const heaviest = Math.max(...this.#rows.map((row) => row.cardinality.reduce((most, c) => Math.max(most, c), 1)));
    const strip = $("strip");
    strip.dataset.rows = String(this.#rows.length);
    strip.dataset.slots = String(this.#rows[0].first.length);
    strip.dataset.heaviest = String(heaviest);
    strip.dataset.tokens = String(this.#span);
    strip.setAttribute(
      "aria-label",
      `Slots by position in the text: ${this.#rows.length} rows of ${plural(this.#rows[0].first.length, "slot")}, ` +
        `up to ${plural(heaviest, "token")} in one slot`,
    );
    const history = $("history");
    history.dataset.samples = String(this.#samples.length);
    history.setAttribute("aria-label", `${plural(slot.tokens, "token")} read, ${plural(slot.live, "slot")} held, at most ${count(slot.capacity)}`);
    this.#counters(slot);
    $("refreshed").textContent = `as of ${new Date().toLocaleTimeString()}`;
  }

  #counters(slot) {
    const entries = [
      ["Compressions", count(slot.compressions)],
      ["Merges", count(slot.merges)],
      ["Evictions", count(slot.evictions)],
      ["Budget", plural(slot.budget, "slot")],
      ["Capacity", plural(slot.capacity, "slot")],
      ["Layers x plans", `${slot.layers} x ${slot.groups}`],
    ];
    $("counters").replaceChildren(
      ...entries.map(([name, value]) => {
        const pair = document.createElement("div");
        const term = document.createElement("dt");
        const description = document.createElement("dd");
        term.textContent = name;
        description.textContent = value;
        pair.dataset.name = name.toLowerCase();
        pair.append(term, description);
        return pair;
      }),
    );
  }

  #probe(event) {
    const slot = this.#slot;
    const place = slot && this.#rows.length && locate($("strip"), event, this.#rows.length, this.#span);
    if (!place) {
      $("probe").textContent = "";
      return;
    }
    const row = this.#rows[place.row];
    const at = row.first.findIndex((first, index) => first <= place.position && place.position <= row.last[index]);
    const where = `layer ${row.layer}, KV head ${row.group}`;
    if (at < 0) $("probe").textContent = `Token ${count(place.position)} was dropped (${where})`;
    else if (row.cardinality[at] === 1) $("probe").textContent = `Token ${count(row.first[at])} has its own slot (${where})`;
    else {
      const [first, last, cardinality] = [row.first[at], row.last[at], row.cardinality[at]];
      $("probe").textContent = `Tokens ${count(first)}-${count(last)}: ${count(cardinality)} in one slot (${where})`;
    }
  }
}

function loadSamples() {
  try {
    const samples = JSON.parse(sessionStorage.getItem("asymkv.samples"));
    return Array.isArray(samples) ? samples : [];
  } catch {
    return [];
  }
}

function range(n) {
  return Array.from({ length: n }, (_, index) => index);
}

/** Options of a select, touched only if they change, so that an open one stays open. */
function fill(select, options, chosen) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  }
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0] ?? "";
}
