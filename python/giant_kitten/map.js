/* The memory map, for every page that shows one:
 * <giant-kitten-map src="state" interval="1000"></giant-kitten-map>.
 *
 * `src` is the address of a program's state as JSON (`_state.py`). It is requested every `interval`
 * milliseconds as long as the element is visible. Without `src`, the state is the text of a
 * <script type="application/json"> inside the element, for reports. Nothing else is requested, and
 * no style leaks in or out.
 *
 * The theme is light or dark like the page's background behind the element, unless the attribute
 * `theme` chooses one.
 */
(() => {
  "use strict";
  if (customElements.get("giant-kitten-map")) return;

  const SVG = "http://www.w3.org/2000/svg";

  /* The kinds of memory. The colours are distinct for every kind of colour vision (after Okabe and
   * Ito), and each kind has a pattern in addition. */
  const KINDS = [
    { key: "model", letter: "M", name: "weights", hint: "blocks that are marked as part of the model" },
    { key: "other", letter: "O", name: "other", hint: "resident blocks that are not marked: text encoder, VAE, allocations before an action" },
    { key: "scratch", letter: "S", name: "scratch", hint: "activations and workspaces that live within one step" },
    { key: "free", letter: "F", name: "idle", hint: "held by the allocator, and unused at the moment" },
  ];

  const STYLE = `
    :host { display: block; container-type: inline-size; font: 14px/1.45 system-ui, sans-serif; color: var(--ink);
      --ink: #1b1f24; --soft: #57606a; --line: #c4cad1; --paper: #ffffff; --well: #eef1f4;
      --model: #0072b2; --other: #3f8f6f; --scratch: #e08a00; --copies: #a3539b; --free: #b9c1ca; --mark: #1b1f24; --warn: #9a3b00; }
    :host([data-dark]) { --ink: #e8eaed; --soft: #a9b1bb; --line: #4a525c; --paper: #16191d; --well: #262b31;
      --model: #56b4e9; --other: #6fc7a3; --scratch: #f0a830; --copies: #d58fce; --free: #5b646f; --mark: #ffffff; --warn: #ffb37a; }
    :host([hidden]) { display: none }
    * { box-sizing: border-box }
    .card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0 0 10px }
    h2 { font-size: 14px; margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline }
    h2 .phase { font-weight: 400; color: var(--soft) }
    .bar { margin: 0 0 10px }
    .bar .head { display: flex; justify-content: space-between; flex-wrap: wrap; gap: 0 10px }
    .bar .head b { font-weight: 600 } .bar .head span, .note { color: var(--soft) }
    svg { display: block; width: 100%; height: auto; overflow: visible }
    table { border-collapse: collapse; width: 100%; margin: 2px 0 8px; font-variant-numeric: tabular-nums }
    caption { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden }
    th, td { text-align: right; vertical-align: top; padding: 2px 0 2px 8px; font-weight: 400; border-bottom: 1px solid var(--well); white-space: nowrap }
    th:first-child { text-align: left; padding-left: 0; white-space: normal } thead th { color: var(--soft); font-size: 12px }
    tbody th { position: relative } tbody th:first-child { padding-left: 20px }
    th i { position: absolute; left: 0; top: calc(2px + 0.72em - 6px); width: 14px; height: 12px } th i svg { height: 12px }
    dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 6px 12px; margin: 8px 0 0 }
    dt { color: var(--soft); font-size: 12px } dd { margin: 0; font-variant-numeric: tabular-nums }
    details { margin-top: 8px } summary { cursor: pointer; color: var(--soft) }
    .arena { margin: 6px 0 8px; font-size: 12px; color: var(--soft) }
    .guide { margin: 8px 0 0 } .why { margin: 2px 0 0; padding-left: 18px; color: var(--soft) } .problem { color: var(--warn); margin: 0 }
    .key { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: 12px; color: var(--soft); margin: 4px 0 0 }
    @container (max-width: 300px) {
      .card { padding: 8px; font-size: 12px } th, td { padding-left: 4px } thead th { font-size: 11px }
      h2 { font-size: 13px } tbody th:first-child { padding-left: 15px } th i { width: 11px; overflow: hidden } dl { grid-template-columns: 1fr 1fr; gap: 4px 8px }
    }
    @container (max-width: 230px) { th, td { white-space: normal } thead th { font-size: 10px } }
    .m { fill: var(--model) } .o { fill: var(--other) } .s { fill: var(--scratch) } .f { fill: var(--free) } .c { fill: var(--copies) } .n { fill: var(--well) }
  `;

  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

  /** A human-readable number of bytes. */
  function size(bytes) {
    let unit = 0;
    while (bytes >= 1024 && unit < UNITS.length - 1) (bytes /= 1024), (unit += 1);
    return `${unit === 0 ? bytes : bytes.toFixed(unit < 3 ? (bytes < 10 ? 1 : 0) : 2)} ${UNITS[unit]}`;
  }

  function count(number, thing) {
    return `${number} ${thing}${number === 1 ? "" : "s"}`;
  }

  function part(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** The patterns over the colours: none for weights, dots for others, slanted stripes for scratch, and
   * level ones for copies. */
  function patterns() {
    const stroke = { stroke: "var(--paper)", "stroke-width": "1.4" };
    const make = (id, length, ...inside) =>
      drawn("pattern", { id, width: length, height: length, patternUnits: "userSpaceOnUse" }, ...inside);
    return drawn("defs", {},
      make("p-other", 5, drawn("circle", { cx: 2.5, cy: 2.5, r: 0.9, fill: "var(--paper)" })),
      make("p-scratch", 6, drawn("path", { d: "M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2", ...stroke })),
      make("p-copies", 5, drawn("path", { d: "M0,2.5 l5,0", stroke: "var(--paper)", "stroke-width": "1.2" })),
      make("p-reserve", 6, drawn("path", { d: "M-1,5 l2,2 M0,0 l6,6 M5,-1 l2,2", stroke: "var(--scratch)", "stroke-width": "1.2" })),
      make("p-others", 4, drawn("path", { d: "M2,0 l0,4", stroke: "var(--soft)", "stroke-width": "1.4" })),
      make("p-persist", 6, drawn("path", { d: "M0,0 l6,6 M6,0 l-6,6", stroke: "var(--soft)", "stroke-width": "0.8" })));
  }

  /** A filled box: its colour, and the pattern over it. */
  function box(x, y, width, height, look) {
    const group = drawn("g", {});
    const at = { x, y, width: Math.max(width, 0), height };
    if (look.length === 1) group.append(drawn("rect", { ...at, class: look }));
    const pattern = { o: "p-other", s: "p-scratch", c: "p-copies", reserve: "p-reserve", persist: "p-persist", others: "p-others" }[look];
    if (pattern) group.append(drawn("rect", { ...at, fill: `url(#${pattern})` }));
    return group;
  }

  /** The contents of a tier in the order of its bar: [look, bytes, name, hint]. */
  function contents(device, tier) {
    const bytes = device.map.bytes[tier];
    const found = KINDS.map((kind) => [kind.letter.toLowerCase(), bytes[kind.key], kind.name, kind.hint]);
    found[3][1] += device.map.stock[tier];
    if (tier === "dedicated") {
      const { stats } = device;
      /* The free part of the reserve is idle memory that is held, or is still to be allocated. */
      const kept = Math.max(0, stats.reserve - stats.reserve_used);
      const held = Math.min(kept, found[3][1]);
      found[3][1] -= held;
      if (stats.staging) found.push(["c", stats.staging, "copies ahead", "the ring of weights that lie in host memory and are copied before they are used"]);
      found.push(["reserve", kept, "reserve, free", "kept for scratch, which uses it first"]);
      if (stats.persist) found.push(["persist", stats.persist, "withheld (persist)", "as if the card were smaller"]);
      if (device.others) found.push(["others", device.others, device.others_are || "taken by others", "VRAM that is not giant-kitten's: other programs, or memory that this one gets elsewhere"]);
    }
    return found;
  }

  const TITLES = { dedicated: "Dedicated (VRAM)", shared: "Shared (host memory)" };

  /** What the operating system grants of a tier, where it keeps an account, as Windows does. */
  function granted(stats, tier) {
    const budget = stats[`${tier}_granted`], usage = stats[`${tier}_usage`];
    if (!budget) return "";
    const taken = usage > budget ? `; it has taken ${size(usage - budget)} away` : "";
    return `; the system grants ${size(budget)}, ${size(usage)} in use${taken}`;
  }

  function bar(device, tier, width) {
    const { stats } = device;
    const capacity = stats[`${tier}_capacity`];
    const parts = contents(device, tier);
    const used = stats[`${tier}_allocated`];
    const said = parts.filter((found) => found[1]).map((found) => `${found[2]} ${size(found[1])}`).join(", ") || "empty";
    const head = capacity
      ? `${size(used)} of ${size(capacity)}`
      : tier === "shared" ? "not available with this driver and machine" : "none";
    const label = `${TITLES[tier]}: ${head}; ${said}${granted(stats, tier)}`;
    const height = 22;
    const picture = drawn("svg", { viewBox: `0 0 ${width} ${height + 8}`, role: "img", "aria-label": label }, patterns());
    picture.append(drawn("title", {}, label), drawn("rect", { x: 0, y: 4, width, height, rx: 3, class: "n" }));
    const total = Math.max(capacity, parts.reduce((sum, found) => sum + found[1], 0), 1);
    let at = 0;
    for (const [look, bytes] of parts) {
      const length = (bytes / total) * width;
      if (bytes) picture.append(box(at, 4, length, height, look));
      at += length;
    }
    if (tier === "dedicated" && stats.reserve_high_water) {
      /* The mark is at the peak of scratch. */
      const scratch = parts.slice(0, 2).reduce((sum, found) => sum + found[1], 0);
      const x = Math.min(((scratch + stats.reserve_high_water) / total) * width, width - 1);
      const line = { x1: x, x2: x, y1: 0, y2: height + 8, stroke: "var(--mark)", "stroke-width": 2 };
      picture.append(drawn("line", line));
    }
    return part("div", { class: "bar" },
      part("div", { class: "head" }, part("b", {}, TITLES[tier]), part("span", {}, head + granted(stats, tier))), picture);
  }

  function swatch(look) {
    return drawn("svg", { viewBox: "0 0 14 12", "aria-hidden": "true" }, patterns(), drawn("rect", { width: 14, height: 12, class: "n" }),
      box(0, 0, 14, 12, look));
  }

  function table(device) {
    const near = contents(device, "dedicated"), far = contents(device, "shared");
    const rows = near.map(([look, bytes, name, hint], i) =>
      part("tr", { title: hint },
        part("th", { scope: "row" }, part("i", {}, swatch(look)), name),
        part("td", {}, bytes ? size(bytes) : "–"),
        part("td", {}, far[i] && far[i][1] ? size(far[i][1]) : "–")));
    return tiers("Memory by kind and tier", rows);
  }

  /** A table of bytes in each tier. */
  function tiers(caption, rows, first = "") {
    const heads = [first, "dedicated", "shared"].map((text) => part(text ? "th" : "td", text ? { scope: "col" } : {}, text));
    return part("table", {}, part("caption", {}, caption), part("thead", {}, part("tr", {}, ...heads)), part("tbody", {}, ...rows));
  }

  /** The weights of each module that is followed, or nothing. */
  function modules(found) {
    if (!found || !found.length) return [];
    const rows = found.map((module) =>
      part("tr", { title: "the weights that a pass of this module reads" },
        part("th", { scope: "row" }, module.name),
        ...["dedicated", "shared"].map((tier) => part("td", {}, module[tier] ? size(module[tier]) : "–"))));
    return [tiers("Weights by module and tier", rows, "module")];
  }

  /** The granules in the order of their addresses; several share a square if they would not fit. */
  function arena(found, granule, width) {
    const most = 960, cell = 7, across = Math.max(1, Math.floor(width / cell));
    const together = Math.max(1, Math.ceil(found.granules.length / most));
    const cells = [];
    for (let at = 0; at < found.granules.length; at += together) {
      const counts = {};
      for (const letter of found.granules.slice(at, at + together)) counts[letter] = (counts[letter] || 0) + 1;
      cells.push(Object.entries(counts).sort((a, b) => b[1] - a[1])[0][0]);
    }
    const rows = Math.ceil(cells.length / across);
    const far = [...found.granules].filter((letter) => letter !== "." && letter === letter.toLowerCase()).length;
    const label = `${found.purpose}, ${found.class} blocks: ${found.granules.length} × ${size(granule)}${far ? `, ${far} shared` : ""}`;
    const picture = drawn("svg", { viewBox: `0 0 ${across * cell} ${rows * cell}`, role: "img", "aria-label": label }, drawn("title", {}, label));
    picture.style.maxWidth = `${across * cell}px`;
    cells.forEach((letter, i) => {
      const x = (i % across) * cell, y = Math.floor(i / across) * cell;
      const look = letter === "." ? "n" : letter.toLowerCase();
      const shared = letter !== "." && letter === letter.toLowerCase();
      /* A dedicated granule fills its cell; a shared one is a small ring. */
      picture.append(shared
        ? drawn("rect", { x: x + 1.5, y: y + 1.5, width: cell - 4, height: cell - 4, fill: "none", stroke: `var(--${NAMES[look]})`, "stroke-width": 1.6 })
        : drawn("rect", { x, y, width: cell - 1, height: cell - 1, class: look }));
    });
    return part("div", { class: "arena" }, part("div", {}, label + (together > 1 ? `; each square is ${together} granules` : "")), picture);
  }

  const NAMES = Object.fromEntries(KINDS.map((kind) => [kind.letter.toLowerCase(), kind.key]));

  function figures(device, work) {
    const { stats } = device;
    const list = part("dl", {});
    const add = (name, text, hint) => list.append(part("div", { title: hint }, part("dt", {}, name), part("dd", {}, text)));
    if (work && work.seconds_per_iteration) {
      add("seconds per iteration", work.seconds_per_iteration.toFixed(work.seconds_per_iteration < 10 ? 2 : 1),
        work.running ? "of the current work" : "of the last work");
    }
    add("reserve", `${size(stats.reserve)}${stats.automatic ? ", automatic" : ""}`, "dedicated memory that resident blocks leave to scratch");
    add("scratch, now and peak", `${size(stats.reserve_used)}, ${size(stats.reserve_high_water)}`, "dedicated bytes of live scratch, and their peak");
    add("fell to shared", `${size(stats.fell_to_shared_bytes)} in ${count(stats.fell_to_shared, "block")}`, "blocks that found no dedicated memory, since the start");
    add("moved", size(stats.migrated_bytes), "between the tiers, by actions and by the automatic mode, since the start");
    if (stats.lends) {
      add("copied ahead", size(stats.copied_ahead_bytes), `over the link, before they were used: ${count(stats.lends, "weight")} since the start`);
    }
    if (stats.missed_lends) add("read in place", count(stats.missed_lends, "weight"), "in host memory, by modules that are followed, since the start");
    if (stats.out_of_memory) add("out of memory", count(stats.out_of_memory, "time"), "requests that neither tier could satisfy");
    return list;
  }

  /** The reserve in force and its reason.
   *
   * A long reason, such as the automatic mode gives, has a line for each of its parts. */
  function chosen(text) {
    const found = text.match(/^(.*?) \((.*)\)\.$/);
    const [how, ...reasons] = found ? found[2].split(": ") : [];
    if (reasons.length < 2) return [part("p", { class: "guide" }, text)];
    return [
      part("p", { class: "guide" }, `${found[1]}, ${how}:`),
      part("ul", { class: "why" }, ...reasons.map((reason) => part("li", {}, reason))),
    ];
  }

  /** Whether the page behind an element is dark. */
  function isDark(element) {
    for (let at = element; at; at = at.parentElement || (at.getRootNode() && at.getRootNode().host)) {
      const found = getComputedStyle(at).backgroundColor.match(/[\d.]+/g);
      if (found && (found.length < 4 || Number(found[3]) > 0.5)) {
        return 0.299 * found[0] + 0.587 * found[1] + 0.114 * found[2] < 128;
      }
    }
    return matchMedia("(prefers-color-scheme: dark)").matches && getComputedStyle(document.documentElement).colorScheme.includes("dark");
  }

  class GiantKittenMap extends HTMLElement {
    #root = this.attachShadow({ mode: "open" });
    #timer = 0;
    #failures = 0;
    #state = null;
    #open = false;
    #width = 0;
    #watch = null;
    #content = part("div", {});

    connectedCallback() {
      /* The style makes it a block, which has a width. */
      this.#root.replaceChildren(part("style", {}, STYLE), this.#content);
      const inline = this.querySelector("script[type='application/json']");
      if (inline) this.#state = JSON.parse(inline.textContent);
      this.#watch = new ResizeObserver(() => {
        if (Math.abs(this.clientWidth - this.#width) > 1) this.#show();
      });
      this.#watch.observe(this);
      this.#show();
      this.#ask();
    }

    disconnectedCallback() {
      clearTimeout(this.#timer);
      if (this.#watch) this.#watch.disconnect();
    }

    /** Shows a state at once, for pages that already have it. */
    set state(state) {
      this.#state = state;
      this.#show();
    }

    get state() {
      return this.#state;
    }

    async #ask() {
      clearTimeout(this.#timer);
      const source = this.getAttribute("src");
      if (!source || !this.isConnected) return;
      const interval = Number(this.getAttribute("interval")) || 1000;
      /* Nothing is requested while nobody sees it. Folded panels have no width. */
      const seen = !document.hidden && this.clientWidth > 0;
      if (seen) {
        try {
          const answer = await fetch(source, { cache: "no-store", credentials: "same-origin" });
          if (!answer.ok) throw new Error(answer.status === 401 ? "it requires a login" : `its status is ${answer.status}`);
          this.#state = await answer.json();
          this.#failures = 0;
          this.dispatchEvent(new CustomEvent("giant-kitten-state", { detail: this.#state, bubbles: true, composed: true }));
        } catch (why) {
          this.#failures += 1;
          if (this.#failures > 1) this.#state = { problem: `The program does not answer (${why.message}). Has it ended?`, devices: [] };
        }
        this.#show();
      }
      this.#timer = setTimeout(() => this.#ask(), seen ? interval * Math.min(1 + this.#failures, 10) : Math.min(interval, 500));
    }

    #show() {
      const width = (this.#width = this.clientWidth);
      if (!width) return;
      const theme = this.getAttribute("theme");
      this.toggleAttribute("data-dark", theme ? theme === "dark" : isDark(this.parentElement || this));
      const state = this.#state;
      const inside = [];
      if (!state) {
        inside.push(part("div", { class: "card" }, part("p", { class: "note", style: "margin:0" }, "Waiting for the first statistics.")));
      } else {
        if (state.problem) inside.push(part("div", { class: "card" }, part("p", { class: "problem", role: "status" }, state.problem)));
        if (state.note) inside.push(part("div", { class: "card" }, part("p", { class: "note", style: "margin:0", role: "status" }, state.note)));
        for (const device of state.devices || []) inside.push(this.#device(device, state.work, width - 30));
      }
      this.#content.replaceChildren(...inside);
    }

    #device(device, work, width) {
      const { stats } = device;
      const name = part("h2", {}, `${stats.device}`, part("span", { class: "phase" }, device.phase || stats.phase_name));
      const inside = [name, bar(device, "dedicated", width), bar(device, "shared", width), table(device), ...modules(device.modules), figures(device, work)];
      if (work && work.cost && !work.running) inside.push(part("p", { class: "guide" }, `The last generation: ${work.cost}`));
      if (device.chosen) inside.push(...chosen(device.chosen));
      if (device.guide && device.guide.text) inside.push(part("p", { class: "guide" }, device.guide.text));
      const shown = (device.map.arenas || []).filter((found) => found.granules.length);
      if (shown.length) {
        const more = part("details", this.#open ? { open: "" } : {}, part("summary", {}, "All granules"));
        more.addEventListener("toggle", () => {
          if (more.open === this.#open) return;
          this.#open = more.open;
          this.#show();
        });
        if (this.#open) {
          for (const found of shown) more.append(arena(found, device.map.granule, width));
          more.append(part("p", { class: "key" }, "Filled: dedicated. Ring: shared. Faint: no backing. The colours are those of the table."));
        }
        inside.push(more);
      }
      return part("section", { class: "card", "aria-label": `Memory of ${stats.device}` }, ...inside);
    }
  }

  customElements.define("giant-kitten-map", GiantKittenMap);
})();
