// Numbers and times as people write them. Null is a fact that is not known.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const NONE = "–";

export const count = (n) => (n == null ? NONE : plain.format(n));

export function short(n) {
  if (n == null) return NONE;
  if (n < 1000) return n < 10 && n % 1 ? one.format(n) : plain.format(n);
  if (n < 1e6) return `${one.format(n / 1e3)}k`;
  return n < 1e9 ? `${one.format(n / 1e6)}M` : `${one.format(n / 1e9)}G`;
}

export function rate(n) {
  if (n == null) return NONE;
  return n < 100 ? one.format(n) : short(n);
}

export function ms(n) {
  if (n == null) return NONE;
  if (n < 10) return `${one.format(n)} ms`;
  if (n < 1000) return `${plain.format(n)} ms`;
  if (n < 60000) return `${(n / 1000).toFixed(n < 10000 ? 2 : 1)} s`;
  return duration(n / 1000);
}

export function duration(seconds) {
  if (seconds == null) return NONE;
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function bytes(n) {
  if (n == null) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${unit && n < 100 ? one.format(n) : plain.format(n)} ${units[unit]}`;
}

export function clock(millis) {
  return new Date(millis).toLocaleTimeString("en-GB", { hour12: false });
}
