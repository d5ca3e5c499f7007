"use strict";
// Everything that comes from a camera, a model or a file is set as text, never as markup.

const STATE_MS = 1000, PICTURE_MS = 200, HIDDEN_MS = 5000;
const GOOD = ["live"], BAD = ["stalled", "failed"];
const tiles = new Map();
const byId = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, document.hidden ? Math.max(ms, HIDDEN_MS) : ms));

function kind(state) {
  return GOOD.includes(state) ? "good" : BAD.includes(state) ? "bad" : "";
}

function seconds(value) {
  if (value === null) return "no frame yet";
  if (value < 1) return `frame ${Math.max(0, Math.round(value * 1000))} ms old`;
  if (value < 120) return `frame ${value.toFixed(1)} s old`;
  return `frame ${Math.round(value / 60)} min old`;
}

function tileOf(source) {
  if (!tiles.has(source.name)) {
    const tile = byId("tile").content.firstElementChild.cloneNode(true);
    byId("sources").append(tile);
    tiles.set(source.name, { tile, number: source.number, index: null, shown: null });
    keepPicture(tiles.get(source.name));
  }
  return tiles.get(source.name);
}

async function keepPicture(entry) {
  const image = entry.tile.querySelector("img");
  while (entry.tile.isConnected) {
    if (entry.index !== null && entry.index !== entry.shown) {
      const wanted = entry.index;
      await new Promise((done) => {
        image.onload = () => { entry.shown = wanted; entry.tile.querySelector(".picture").classList.add("has"); done(); };
        image.onerror = done;
        image.src = `/picture/${entry.number}?index=${wanted}-${Date.now()}`;
      });
      if (entry.isLive) entry.shown = null;  // the next one is there by now
    }
    await wait(PICTURE_MS * Math.max(1, tiles.size / 4));
  }
}

function show(source) {
  const entry = tileOf(source);
  const { tile } = entry;
  const set = (selector, text) => { tile.querySelector(selector).textContent = text; };
  entry.number = source.number;
  entry.index = source.index;
  entry.isLive = source.state === "live" && source.rate > 0;
  set("h2", source.name);
  set(".state", source.state);
  tile.querySelector(".state").className = `state ${kind(source.state)}`;
  set(".age", source.state === "ended" ? "" : seconds(source.frame_age_s));
  tile.querySelector(".age").classList.toggle("bad", !source.recent && source.state !== "ended");
  set(".rate", `${source.rate.toFixed(1)} results/s`);
  set(".result", source.result);
  const p99 = source.age_p99_ms === null ? "" : `, age p99 ${source.age_p99_ms.toFixed(0)} ms`;
  set(".counts", `read ${source.read}, inferred ${source.inferred}, dropped ${source.dropped}, failed ${source.failed}` +
    `, connections ${source.connections}${p99}`);
  set(".detail", source.detail);
  const picture = tile.querySelector(".picture");
  picture.href = `/video/${source.number}`;
  picture.classList.toggle("old", source.index !== null && !source.recent && source.state !== "ended");
  tile.querySelector("img").alt = `${source.name}: ${source.result}`;
}

function cells(...texts) {
  const row = document.createElement("tr");
  for (const text of texts) {
    const cell = document.createElement("td");
    cell.textContent = text;
    row.append(cell);
  }
  return row;
}

function line(event) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = event.time;
  time.textContent = new Date(event.time).toLocaleTimeString();
  item.append(time, `${event.name}: ${event.state}${event.reason ? `: ${event.reason}` : ""}`);
  return item;
}

async function keepState() {
  for (;;) {
    try {
      const answer = await fetch("/state.json", { signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`${answer.status}`);
      const state = await answer.json();
      byId("model").textContent = state.model;
      byId("connection").textContent = state.alive ? "running" : "the loop does not answer";
      byId("connection").className = state.alive ? "good" : "bad";
      state.sources.forEach(show);
      const names = new Set(state.sources.map((source) => source.name));
      for (const [name, entry] of tiles) if (!names.has(name)) { entry.tile.remove(); tiles.delete(name); }
      byId("sinks").replaceChildren(...state.sinks.map((sink) => cells(sink.name, sink.state, sink.delivered, sink.failed)));
      byId("events").replaceChildren(...state.events.map(line));
    } catch (error) {
      byId("connection").textContent = "the stream does not answer";
      byId("connection").className = "bad";
      for (const { tile } of tiles.values()) tile.querySelector(".picture").classList.add("old");
    }
    await wait(STATE_MS);
  }
}

keepState();
