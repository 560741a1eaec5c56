// Two canvases: the slots as strata over the text, and tokens against slots over time.

import { count, short } from "./units.js";

const TOP = 6; // log2 of the cardinality that gets the last colour
const ROW_GAP = 2;
const GUTTER = 36;
const AXIS = 18;

export const LEGEND = [1, 2, 4, 8, 16, 32, 64];

function channels(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const ramp = LEGEND.map((_, index) => channels(read(`--c${index}`)));
  return { ramp, ink: read("--ink"), soft: read("--soft"), line: read("--line"), accent: read("--accent"), bed: read("--bed") };
}

/** The colour of a cardinality's binary logarithm. */
function colour(ramp, log) {
  const at = (Math.min(Math.max(log, 0), TOP) / TOP) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[low].map((from, channel) => Math.round(from + (ramp[low + 1][channel] - from) * (at - low)));
}

/** A canvas context in CSS pixels, or null while the canvas is not shown. */
function prepare(canvas, height) {
  const width = canvas.clientWidth;
  if (!width) return null;
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height, scale };
}

function axisTicks(most, n = 4) {
  const rough = most / n;
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? power * 10;
  const ticks = [];
  for (let value = 0; value <= most; value += step) ticks.push(value);
  return ticks;
}

/**
 * One row per layer or KV head; x is the position in the text. A slot is drawn over the tokens it stands for, from the
 * first to the last. Where several slots share a pixel their mean is shown; text that no slot counts stays empty.
 * `rows`: {label, first, last, cardinality}; `marks`: positions where answers ended.
 */
export function drawStrip(canvas, rows, tokens, marks) {
  const rowHeight = rows.length <= 6 ? 20 : rows.length <= 10 ? 16 : 12;
  const ready = prepare(canvas, rows.length * (rowHeight + ROW_GAP) + AXIS);
  if (!ready) return;
  const { context, width, height, scale } = ready;
  const { ramp, soft, line, bed } = theme();
  const span = Math.max(1, width - GUTTER);
  const columns = Math.max(1, Math.round(span * scale));
  const picture = context.createImageData(columns, 1);
  const covered = new Float32Array(columns);
  const weighted = new Float32Array(columns);
  const edges = new Uint8Array(columns); // where wide slots begin
  const bedColour = channels(bed);
  context.textBaseline = "middle";
  rows.forEach((row, index) => {
    const top = index * (rowHeight + ROW_GAP);
    covered.fill(0);
    weighted.fill(0);
    edges.fill(0);
    for (let i = 0; i < row.first.length; i += 1) {
      const from = (row.first[i] / tokens) * columns;
      const to = ((row.last[i] + 1) / tokens) * columns;
      if (to - from >= 4 * scale) edges[Math.floor(from)] = 1;
      const log = Math.log2(Math.max(1, row.cardinality[i]));
      for (let x = Math.floor(from); x < Math.min(columns, Math.ceil(to)); x += 1) {
        const share = Math.min(to, x + 1) - Math.max(from, x);
        covered[x] += share;
        weighted[x] += share * log;
      }
    }
    for (let x = 0; x < columns; x += 1) {
      const share = Math.min(1, covered[x]);
      const [r, g, b] = share > 0.02 ? colour(ramp, weighted[x] / covered[x]) : bedColour;
      const keep = edges[x] ? 0.5 : share > 0.02 ? Math.max(share, 0.8) : 1;
      picture.data.set([r, g, b].map((value, channel) => value * keep + bedColour[channel] * (1 - keep)), x * 4);
      picture.data[x * 4 + 3] = 255;
    }
    // putImageData is in device pixels and knows no scale
    for (let y = 0; y < Math.round(rowHeight * scale); y += 1) {
      context.putImageData(picture, Math.round(GUTTER * scale), Math.round(top * scale) + y);
    }
    context.fillStyle = soft;
    context.textAlign = "right";
    context.fillText(row.label, GUTTER - 8, top + rowHeight / 2);
  });
  const base = height - AXIS;
  context.strokeStyle = soft;
  context.fillStyle = soft;
  context.lineWidth = 1;
  context.textBaseline = "alphabetic";
  for (const mark of marks.filter((position) => position < tokens)) {
    const x = Math.round(GUTTER + (mark / tokens) * span) + 0.5;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, base);
    context.strokeStyle = line;
    context.stroke();
  }
  for (const tick of axisTicks(tokens, width > 420 ? 5 : 3)) {
    const x = GUTTER + (tick / tokens) * span;
    context.textAlign = tick === 0 ? "left" : x > width - 24 ? "right" : "center";
    context.fillText(short(tick), x, height - 4);
  }
}

/** Where in the strip a pointer is: {row, position}, or null beside it. */
export function locate(canvas, event, nRows, tokens) {
  const box = canvas.getBoundingClientRect();
  const rowHeight = (box.height - AXIS) / nRows;
  const row = Math.floor((event.clientY - box.top) / rowHeight);
  const position = Math.floor(((event.clientX - box.left - GUTTER) / (box.width - GUTTER)) * tokens);
  if (row < 0 || row >= nRows || position < 0 || position >= tokens) return null;
  return { row, position };
}

/** `samples`: {seconds, tokens, live}; `capacity`: the line that slots never cross. */
export function drawHistory(canvas, samples, capacity) {
  const ready = prepare(canvas, 130);
  if (!ready) return;
  const { context, width, height } = ready;
  const { ramp, ink, soft, line, accent } = theme();
  const most = Math.max(1, ...samples.map((sample) => Math.max(sample.tokens, sample.live)), Math.min(capacity, 1e9));
  const left = samples[0]?.seconds ?? 0;
  const seconds = Math.max(0.1, (samples.at(-1)?.seconds ?? 0) - left);
  const top = 10;
  const base = height - AXIS;
  const right = width - 52; // the lines are named at their ends
  const x = (sample) => GUTTER + ((sample.seconds - left) / seconds) * (right - GUTTER);
  const y = (value) => base - (value / most) * (base - top);

  context.lineWidth = 1;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of axisTicks(most, 3)) {
    context.strokeStyle = line;
    context.beginPath();
    context.moveTo(GUTTER, Math.round(y(tick)) + 0.5);
    context.lineTo(right, Math.round(y(tick)) + 0.5);
    context.stroke();
    context.fillStyle = soft;
    context.fillText(short(tick), GUTTER - 6, y(tick));
  }
  context.strokeStyle = soft;
  context.setLineDash([2, 3]);
  context.beginPath();
  context.moveTo(GUTTER, y(capacity));
  context.lineTo(right, y(capacity));
  context.stroke();
  context.setLineDash([]);

  const slots = `rgb(${colour(ramp, 4.5).join(" ")})`;
  const path = (name, stroke, thickness) => {
    context.strokeStyle = stroke;
    context.lineWidth = thickness;
    context.lineJoin = "round";
    context.beginPath();
    samples.forEach((sample, index) => {
      if (index) context.lineTo(x(sample), y(sample[name]));
      else context.moveTo(x(sample), y(sample[name]));
    });
    if (samples.length === 1) context.lineTo(right, y(samples[0][name])); // read before this page was opened
    context.stroke();
  };
  path("tokens", accent, 1.75);
  path("live", slots, 2.5);
  const last = samples.at(-1);
  if (last) {
    const apart = y(last.live) - y(last.tokens) >= 13;
    context.textAlign = "left";
    context.fillStyle = ink;
    context.fillText("tokens", right + 6, apart ? y(last.tokens) : y(last.live) - 13);
    context.fillText("slots", right + 6, y(last.live));
  }
  context.fillStyle = soft;
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillText("0 s", GUTTER, height - 4);
  context.textAlign = "right";
  context.fillText(`${seconds < 10 ? seconds.toFixed(1) : count(seconds)} s of work`, right, height - 4);
}
