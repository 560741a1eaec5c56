// Numbers as people read them.

export function count(n) {
  return Math.round(n).toLocaleString("en-US");
}

/** For axes and the header: 2,304, 102k. */
export function short(n) {
  return n >= 10_000 ? `${count(n / 1000)}k` : count(n);
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${Math.round(n) === 1 ? one : many}`;
}

/** Bytes in binary units: 320 KiB, 2.5 MiB. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let power = bytes > 0 ? Math.min(3, Math.floor(Math.log2(bytes) / 10)) : 0;
  if (power > 1 && bytes / 1024 ** power < 1) power -= 1;
  const amount = bytes / 1024 ** power;
  const digits = amount >= 10 || power === 0 ? 0 : 1;
  return `${amount.toLocaleString("en-US", { maximumFractionDigits: digits })} ${units[power]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function rate(n, seconds) {
  const perSecond = n / Math.max(seconds, 1e-3);
  return `${perSecond >= 10 ? count(perSecond) : perSecond.toFixed(1)} tokens/s`;
}
