// The page of `markovae serve`: forms out as JSON, events in from a stream, pictures as they come.
import { lecture } from "./lecture.js";

const token = new URLSearchParams(location.hash.slice(1)).get("token");
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
let about = null;

async function ask(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
}

async function* events(path, body, signal) {
  const answer = await ask(path, body, signal);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ message: `the server answered ${answer.status}` }));
    throw new Error(said.message);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    kept += value;
    const parts = kept.split("\n\n");
    kept = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice(6));
  }
}

// One form, one stream: submitting starts it, the stop button or another submission ends it.
function work(section, path, collect, show) {
  const form = $("form", section), status = $(".status", section), bar = $("progress", section);
  const stop = $(".cancel", section);
  let running = null;
  const say = (text, error = false) => {
    status.textContent = text;
    status.classList.toggle("error", error);
  };
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort();
    const mine = (running = new AbortController());
    stop.disabled = false;
    bar.hidden = false;
    bar.removeAttribute("value");
    say("asking");
    try {
      const body = await collect(new FormData(form));
      const began = performance.now();
      let finished = false;
      for await (const found of events(path, body, mine.signal)) {
        if (found.kind === "error") throw new Error(found.message);
        if (found.kind === "waiting") say(found.before ? `${found.before} before you` : "working");
        if (found.kind === "progress") {
          bar.max = found.of;
          bar.value = found.done;
          const left = ((performance.now() - began) / Math.max(1, found.done)) * (found.of - found.done);
          say(`${found.done} of ${found.of}, ${(left / 1000).toFixed(0)} s left`);
        }
        if (found.kind === "done") {
          finished = true;
          say([found.note, `done in ${((performance.now() - began) / 1000).toFixed(1)} s`].filter(Boolean).join("; "));
        }
        show(found);
      }
      if (!finished) throw new Error("the server ended");
    } catch (error) {
      if (running === mine) say(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
    } finally {
      if (running === mine) {
        stop.disabled = true;
        bar.hidden = true;
      }
    }
  });
}

function pictures(holder, sources) {
  holder.replaceChildren(
    ...sources.map((source, index) => {
      const button = document.createElement("button"), image = document.createElement("img");
      button.type = "button";
      image.src = source;
      image.alt = `image ${index}`;
      image.width = image.height = 96;
      button.append(image);
      button.addEventListener("click", () => enlarge(source, index));
      return button;
    }),
  );
}

function enlarge(source, index) {
  const box = $("#lightbox");
  $("img", box).src = source;
  $("a", box).href = source;
  $("a", box).download = `markovae-${index}.png`;
  box.showModal();
}

function numbers(form, names) {
  const found = {};
  for (const name of names) if (form.get(name) !== null && form.get(name) !== "") found[name] = Number(form.get(name));
  return found;
}

function condition(form) {
  const found = numbers(form, ["guidance"]);
  const label = form.get("label");
  if (about.classes.length && label !== "all" && label !== null) found.label = label === "none" ? "none" : Number(label);
  if (about.prompts && form.get("prompt")) found.prompt = form.get("prompt");
  const given = about.columns.map(({ name }) => [name, form.get(`where ${name}`)]).filter(([, value]) => value);
  if (given.length) found.where = Object.fromEntries(given);
  return found;
}

function read(file) {
  if (!file?.size) throw new Error("choose an image first");
  if (file.size > about.limits.upload) throw new Error(`the image has more than ${about.limits.upload / 2 ** 20} MB`);
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => failed(new Error("the image cannot be read"));
    reader.readAsDataURL(file);
  });
}

function drawing() {
  const section = $("#draw"), sheet = $(".sheet", section), chain = $(".chain", section);
  const slider = $("input[type=range]", chain);
  let frames = [], final = null;
  const look = () => {
    const place = Number(slider.value);
    const frame = frames[place];
    if (!frame) return;
    $("output", chain).textContent = frame.logsnr === null ? "∞" : frame.logsnr.toFixed(2);
    const last = place === frames.length - 1 && final;
    pictures(sheet, last ? final : frame[$("input[name=shown]:checked", chain).value]);
  };
  slider.addEventListener("input", look);
  chain.addEventListener("change", look);
  $(".another", section).addEventListener("click", () => {
    const seed = $("#draw-form").elements.seed;
    seed.value = Number(seed.value) + 1;
    $("#draw-form").requestSubmit();
  });
  work(
    section,
    "api/sample",
    (form) => {
      frames = [];
      final = null;
      $(".command", section).hidden = true;
      return { ...numbers(form, ["n", "steps", "seed"]), sampler: form.get("sampler"), ...condition(form) };
    },
    (found) => {
      if (found.x) {
        frames.push(found);
        slider.max = frames.length - 1;
        slider.value = frames.length - 1;
        chain.hidden = false;
        look();
      }
      if (found.kind === "done") {
        final = found.images;
        look();
        $(".command", section).hidden = false;
        $(".command code", section).textContent = found.command;
      }
    },
  );
}

function measuring() {
  const section = $("#bits"), figure = $(".figure", section);
  work(
    section,
    "api/measure",
    async (form) => ({ image: await read(form.get("image")), ...condition(form) }),
    (found) => {
      if (found.bits !== undefined) {
        figure.hidden = false;
        const unit = (value) => value.toFixed(3);
        figure.textContent = `${unit(found.bits)} bits/dim (95 % interval ${unit(found.low)} to ${unit(found.high)}), ${found.nats.toFixed(0)} nats`;
      }
      if (found.kind !== "done") return;
      for (const name of ["picture", "heat"]) $(`.${name}`, section).src = found[name];
      for (const shown of $$("figure", section)) shown.hidden = false;
      bars($(".levels", section), found.levels);
      const near = $(".neighbours", section);
      near.hidden = !found.neighbours.length;
      pictures($(".sheet", near), found.neighbours.map((neighbour) => neighbour.picture));
      $$(".sheet img", near).forEach((image, place) => {
        image.title = image.alt = `${found.neighbours[place].distance.toFixed(1)} grey levels away`;
      });
    },
  );
}

function bars(canvas, levels) {
  const pen = canvas.getContext("2d"), { width, height } = canvas;
  const ink = getComputedStyle(document.body);
  const top = Math.max(...levels.map((level) => level.nats), 1e-9);
  const [low, high] = [Math.min(...levels.map((l) => l.logsnr)), Math.max(...levels.map((l) => l.logsnr))];
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = ink.getPropertyValue("--accent");
  for (const level of levels) {
    const x = ((level.logsnr - low) / (high - low || 1)) * (width - 40) + 20;
    const tall = (Math.max(0, level.nats) / top) * (height - 50);
    pen.fillRect(x - 5, height - 25 - tall, 10, tall);
  }
  pen.fillStyle = ink.color;
  pen.font = "13px system-ui";
  pen.fillText(low.toFixed(1), 8, height - 6);
  pen.fillText(high.toFixed(1), width - 34, height - 6);
  pen.fillText(`${top.toFixed(1)} nats`, 8, 16);
}

function editing() {
  const section = $("#edit"), form = $("#edit-form"), canvas = $(".paint", section), pen = canvas.getContext("2d");
  const [, height, width] = about.shape;
  const mask = document.createElement("canvas");
  [mask.width, mask.height] = [width, height];
  const zoom = Math.max(1, Math.round(320 / Math.max(width, height)));
  [canvas.width, canvas.height] = [width * zoom, height * zoom];
  const paint = mask.getContext("2d");
  let picture = null, brush = { x: width / 2, y: height / 2 };
  const render = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = false;
    if (picture) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 0.6;
    pen.drawImage(mask, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 1;
    pen.strokeStyle = "#c33";
    const size = Number(form.elements.brush.value);
    pen.strokeRect((brush.x - size / 2) * zoom, (brush.y - size / 2) * zoom, size * zoom, size * zoom);
  };
  const clear = () => {
    paint.clearRect(0, 0, width, height);
    render();
  };
  const dab = () => {
    const size = Number(form.elements.brush.value);
    paint.fillStyle = "#fff";
    paint.fillRect(Math.round(brush.x - size / 2), Math.round(brush.y - size / 2), size, size);
    render();
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    brush = { x: ((event.clientX - box.left) / box.width) * width, y: ((event.clientY - box.top) / box.height) * height };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    at(event);
    dab();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    at(event);
    dab();
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (steps[event.key]) brush = { x: brush.x + steps[event.key][0], y: brush.y + steps[event.key][1] };
    else if (event.key !== " ") return;
    event.preventDefault();
    event.key === " " ? dab() : render();
  });
  $(".clear", section).addEventListener("click", clear);
  form.elements.image.addEventListener("change", async () => {
    picture = new Image();
    picture.src = URL.createObjectURL(form.elements.image.files[0]);
    await picture.decode().catch(() => (picture = null));
    if (picture) {
      const side = Math.min(picture.naturalWidth / width, picture.naturalHeight / height);
      const small = document.createElement("canvas");
      [small.width, small.height] = [width, height];
      const [w, h] = [width * side, height * side];
      small.getContext("2d").drawImage(picture, (picture.naturalWidth - w) / 2, (picture.naturalHeight - h) / 2, w, h, 0, 0, width, height);
      picture = small;
    }
    clear();
  });
  const ways = () => {
    const way = form.elements.way.value;
    for (const part of $$(".for-inpaint", section)) part.hidden = way !== "inpaint";
    for (const part of $$(".for-interpolate", section)) part.hidden = way !== "interpolate";
    for (const part of $$(".for-level", section)) part.hidden = way === "inpaint";
  };
  form.elements.way.addEventListener("change", ways);
  ways();
  render();
  work(
    section,
    "api/edit",
    async (data) => {
      const body = { way: data.get("way"), image: await read(data.get("image")), ...numbers(data, ["n", "steps", "seed", "level"]), ...condition(data) };
      if (body.way === "interpolate") body.to = await read(data.get("to"));
      if (body.way === "inpaint") {
        const black = document.createElement("canvas");
        [black.width, black.height] = [width, height];
        const under = black.getContext("2d");
        under.fillRect(0, 0, width, height);
        under.drawImage(mask, 0, 0);
        body.mask = black.toDataURL("image/png");
      }
      return body;
    },
    (found) => found.kind === "done" && pictures($(".sheet", section), found.images),
  );
}

function tabs() {
  const all = $$("[role=tab]");
  const choose = (tab) => {
    for (const other of all) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", chosen);
      other.tabIndex = chosen ? 0 : -1;
      $(`#${other.getAttribute("aria-controls")}`).hidden = !chosen;
    }
  };
  all.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(place + step + all.length) % all.length];
      next.focus();
      choose(next);
    });
  });
}

// A file may be dropped on its field, or pasted anywhere on a view that has one.
function dropping() {
  const give = (field, file) => {
    const files = new DataTransfer();
    files.items.add(file);
    field.files = files.files;
    field.dispatchEvent(new Event("change"));
  };
  for (const label of $$(".drop")) {
    const field = $("input", label);
    label.addEventListener("dragover", (event) => {
      event.preventDefault();
      label.classList.add("over");
    });
    label.addEventListener("dragleave", () => label.classList.remove("over"));
    label.addEventListener("drop", (event) => {
      event.preventDefault();
      label.classList.remove("over");
      if (event.dataTransfer.files[0]) give(field, event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const field = $("section:not([hidden]) .drop input");
    if (field && event.clipboardData.files[0]) give(field, event.clipboardData.files[0]);
  });
}

function columnField({ name, kind, values, low, high }) {
  const label = document.createElement("label");
  const short = (number) => Number(number.toPrecision(4));
  const field = kind === "category" ? document.createElement("select") : document.createElement("input");
  if (kind === "category") field.replaceChildren(new Option("open", ""), ...values.map((value) => new Option(value, value)));
  if (kind === "number") Object.assign(field, { type: "number", step: "any", placeholder: `${short(low)} … ${short(high)}`, title: `${name}: empty is left open` });
  if (kind === "labels") Object.assign(field, { maxLength: 500, placeholder: `any of ${values.slice(0, 3).join(";")}`, title: `${name}: empty is left open` });
  field.name = `where ${name}`;
  label.append(`${name} `, field);
  return label;
}

function controls() {
  for (const part of $$(".for-columns")) {
    part.replaceChildren(...about.columns.map(columnField));
    part.hidden = !about.columns.length;
  }
  for (const select of $$("select[name=label]")) {
    const drawing = select.closest("#draw");
    const choices = [...(drawing ? [["all", "each in turn"]] : []), ...(about.null ? [["none", "none"]] : [])];
    choices.push(...about.classes.map((name, place) => [String(place), name]));
    select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  }
  $("select[name=sampler]").replaceChildren(...about.samplers.map((name) => new Option(name, name, name === about.sampler, name === about.sampler)));
  for (const part of $$(".for-classes")) part.hidden = !about.classes.length;
  for (const part of $$(".for-prompts")) part.hidden = !about.prompts;
  for (const part of $$(".for-conditions")) part.hidden = !about.classes.length && !about.prompts && !about.columns.length;
  const [channels, height, width] = about.shape;
  $("#about").textContent = `${about.run}, step ${about.step.toLocaleString("en")}: ${width}×${height}, ${channels === 1 ? "grey" : "color"}, ${about.levels.toLocaleString("en")} levels`;
}

tabs();
lecture($("#lecture"));
$("#lightbox button").addEventListener("click", () => $("#lightbox").close());
try {
  const answer = await ask("api/about");
  about = await answer.json();
  if (!answer.ok) throw new Error(about.message);
  controls();
  drawing();
  measuring();
  editing();
  dropping();
  document.documentElement.dataset.ready = "true";
} catch (error) {
  $("#about").textContent = error.message;
}
