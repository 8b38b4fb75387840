// The lecture's sliders: schedule and variances at one σ, and a toy in the plane whose exact prior runs in the browser.
const MODES = Array.from({ length: 8 }, (_, k) => [Math.cos((k * Math.PI) / 4), Math.sin((k * Math.PI) / 4)]);
const SPREAD = 0.08 ** 2;
const POINTS = 400;

function normals(count, seed = 1) {
  // Mulberry's generator and the Box–Muller transform: the same points at every visit.
  let state = seed;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

// E[x | z] of the mixture: responsibilities of the modes, and each mode's own best guess.
export function denoise(z, a) {
  const s2 = 1 - a * a, variance = a * a * SPREAD + s2;
  const logs = MODES.map(([x, y]) => -((z[0] - a * x) ** 2 + (z[1] - a * y) ** 2) / (2 * variance));
  const top = Math.max(...logs), weights = logs.map((value) => Math.exp(value - top));
  const total = weights.reduce((sum, value) => sum + value, 0), gain = (a * SPREAD) / variance;
  return [0, 1].map((axis) => MODES.reduce((sum, mode, k) => sum + (weights[k] / total) * (mode[axis] + gain * (z[axis] - a * mode[axis])), 0));
}

export function lecture(section) {
  const form = section.querySelector("form"), words = section.querySelector(".figure");
  const clean = normals(POINTS, 7).map(([x, y], i) => [MODES[i % 8][0] + Math.sqrt(SPREAD) * x, MODES[i % 8][1] + Math.sqrt(SPREAD) * y]);
  const noise = normals(POINTS, 8);
  let playing = 0;
  const value = (name) => Number(form.elements[name].value);
  const ink = () => getComputedStyle(document.body);

  function draw() {
    const sigma = value("sigma"), delta = value("delta");
    const alpha = Math.sqrt(1 - sigma * sigma), levels = Math.floor(Math.log(delta) / Math.log(alpha)) + 1;
    const level = Math.round(value("level") * levels), a = alpha ** level;
    for (const name of ["sigma", "delta"]) form.elements[name].nextElementSibling.textContent = value(name).toFixed(3);
    describe(level, levels, alpha);
    const all = Array.from({ length: levels + 1 }, (_, l) => l);
    curve(".scales", [all.map((l) => alpha ** l), all.map((l) => Math.sqrt(1 - alpha ** (2 * l)))], level);
    const beta = all.slice(2).map((l) => (sigma ** 2 * (1 - alpha ** (2 * (l - 1)))) / (1 - alpha ** (2 * l)));
    const low = Math.log(beta[0] ?? sigma ** 2), high = Math.log(sigma ** 2);
    const scaled = (v) => 0.1 + (0.8 * (Math.log(v) - low)) / (high - low || 1);
    curve(".variances", [all.slice(2).map(() => scaled(sigma ** 2)), beta.map(scaled)], level - 2);
    toy(clean.map((x, i) => x.map((value, axis) => a * value + Math.sqrt(1 - a * a) * noise[i][axis])), null);
  }

  function describe(level, levels, alpha) {
    const a = alpha ** level, logsnr = (at) => (at ? Math.log(alpha ** (2 * at) / (1 - alpha ** (2 * at))).toFixed(2) : "∞");
    form.elements.level.nextElementSibling.textContent = String(level);
    words.textContent = `L = ${levels} levels: the least with αᴸ < δ. At level ${level}: a = ${a.toFixed(3)}, s = ${Math.sqrt(1 - a * a).toFixed(3)}, log-SNR ${logsnr(level)}. The first level already blurs: log-SNR ${logsnr(1)}.`;
  }

  function curve(name, lines, mark) {
    const canvas = section.querySelector(name), pen = canvas.getContext("2d"), { width, height } = canvas;
    pen.clearRect(0, 0, width, height);
    lines.forEach((line, k) => {
      pen.strokeStyle = k ? "#d9722a" : ink().getPropertyValue("--accent");
      pen.lineWidth = 2;
      pen.beginPath();
      line.forEach((value, i) => pen.lineTo(10 + (i / (line.length - 1 || 1)) * (width - 20), height - 10 - value * (height - 20)));
      pen.stroke();
    });
    pen.strokeStyle = ink().color;
    pen.lineWidth = 1;
    const x = 10 + (Math.max(0, mark) / (lines[0].length - 1 || 1)) * (width - 20);
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, height);
    pen.stroke();
  }

  function toy(grey, blue) {
    const canvas = section.querySelector(".toy"), pen = canvas.getContext("2d"), { width, height } = canvas;
    pen.clearRect(0, 0, width, height);
    const dots = (points, color) => {
      pen.fillStyle = color;
      for (const [x, y] of points) pen.fillRect(width / 2 + (x * width) / 6 - 1.5, height / 2 - (y * height) / 6 - 1.5, 3, 3);
    };
    dots(grey, "#999");
    if (blue) dots(blue, ink().getPropertyValue("--accent"));
  }

  // The prior's chain with the exact posterior mean and variance β̃, from the top.
  function play() {
    const mine = ++playing, alpha = Math.sqrt(1 - value("sigma") ** 2);
    const levels = Math.floor(Math.log(value("delta")) / Math.log(alpha)) + 1;
    let level = levels, z = normals(POINTS, 9);
    const frame = () => {
      if (mine !== playing) return;
      for (let step = 0; step < Math.max(1, Math.round(levels / 120)) && level > 0; step++, level--) {
        const a = alpha ** level, before = alpha ** (level - 1), s2 = 1 - a * a, s2Before = 1 - before * before;
        const sigma2 = 1 - alpha * alpha, deviation = Math.sqrt((sigma2 * s2Before) / s2), fresh = normals(POINTS, 10 + level);
        z = z.map((point, i) => {
          const x = denoise(point, a);
          return point.map((value, axis) => (alpha * s2Before * value + before * sigma2 * x[axis]) / s2 + deviation * fresh[i][axis]);
        });
      }
      toy(clean, z);
      form.elements.level.value = level / levels;
      describe(level, levels, alpha);
      if (level > 0) requestAnimationFrame(frame);
      else section.dataset.played = "true";
    };
    frame();
  }

  form.addEventListener("input", () => {
    playing++;
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  section.querySelector(".play").addEventListener("click", play);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
