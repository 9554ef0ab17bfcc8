/* The last minutes of a program as small charts:
 * <giant-kitten-history src="history" interval="2000"></giant-kitten-history>.
 *
 * `src` is the address of what `recent.py` keeps, as JSON. It is requested every `interval`
 * milliseconds as long as the element is visible. */
(() => {
  "use strict";
  if (customElements.get("giant-kitten-history")) return;

  const SVG = "http://www.w3.org/2000/svg";
  const STYLE = `
    :host { display: block; font: 12px/1.45 system-ui, sans-serif; --ink: #1b1f24; --soft: #57606a; --line: #c4cad1; --paper: #fff;
      --dedicated: #0072b2; --shared: #9a3b00; --scratch: #a86400; --ring: #a3539b; --link: #0072b2; --moves: #9a3b00; --passes: #3f8f6f }
    @media (prefers-color-scheme: dark) { :host { --ink: #e8eaed; --soft: #a9b1bb; --line: #4a525c; --paper: #16191d; --dedicated: #56b4e9;
      --shared: #ffb37a; --scratch: #f0a830; --ring: #d58fce; --link: #56b4e9; --moves: #ffb37a; --passes: #6fc7a3 } }
    section { background: var(--paper); color: var(--ink); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0 0 10px }
    h2 { font-size: 14px; margin: 0 0 6px } h3 { font-size: 12px; font-weight: 400; color: var(--soft); margin: 8px 0 2px }
    svg { display: block; width: 100%; height: 64px } p { margin: 2px 0 0; display: flex; flex-wrap: wrap; gap: 0 12px }
    i { display: inline-block; width: 14px; border-top: 2px solid; vertical-align: middle; margin-right: 4px }
    path { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke } .grid { stroke: var(--line); stroke-width: 1 }
  `;
  /* Each figure has a dash of its own, for readers who see no colours. */
  const CHARTS = [
    { title: "Memory", lines: [["dedicated", "VRAM", ""], ["shared", "host memory", "6 3"], ["scratch", "scratch in VRAM", "2 2"], ["ring", "ring of copies", "8 2 2 2"]], text: size },
    { title: "Over the link, by moves and copies", lines: [["link", "a second", ""]], text: size },
    { title: "A second", lines: [["moves", "granules moved", ""], ["passes", "safe points", "6 3"]], text: (value) => value.toFixed(value < 10 ? 1 : 0) },
  ];

  function size(bytes) {
    let unit = 0;
    while (bytes >= 1024 && unit < 4) (bytes /= 1024), (unit += 1);
    return `${unit < 2 ? bytes.toFixed(0) : bytes.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
  }

  function part(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  /** The points of a line, as [time, value]. A figure that counts on is shown as its rate. */
  function points(figures, samples, name) {
    const at = figures.indexOf(name);
    if (at > 0) return samples.map((sample) => [sample[0], sample[at]]);
    const total = figures.indexOf(`${name}_total`);
    return samples.slice(1).map((sample, i) => {
      const seconds = sample[0] - samples[i][0];
      return [sample[0], seconds > 0 ? Math.max(0, sample[total] - samples[i][total]) / seconds : 0];
    });
  }

  /** The seconds that the charts span: those that there are, once they are enough to draw. */
  function span(seconds, samples) {
    return samples.length ? Math.min(seconds, Math.max(60, samples[samples.length - 1][0] - samples[0][0])) : seconds;
  }

  function chart({ title, lines, text }, figures, seconds, samples) {
    const now = samples.length ? samples[samples.length - 1][0] : 0;
    const known = lines.map(([name, label, dash]) => ({ name, label, dash, found: points(figures, samples, name) }));
    const most = Math.max(1e-9, ...known.flatMap(({ found }) => found.map((point) => point[1])));
    const last = ({ found }) => (found.length ? found[found.length - 1][1] : 0);
    const said = known.map((one) => `${one.label} ${text(last(one))}`).join(", ");
    const picture = drawn("svg", { viewBox: "0 0 600 64", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: now ${said}; at most ${text(most)}` });
    for (const y of [1, 32, 63]) picture.append(drawn("path", { class: "grid", d: `M0,${y} H600` }));
    for (const { name, dash, found } of known) {
      const d = found.map(([time, value], i) =>
        `${i ? "L" : "M"}${(600 * (1 - (now - time) / seconds)).toFixed(1)},${(62 - 60 * (value / most)).toFixed(1)}`).join("");
      if (d) picture.append(drawn("path", { d, stroke: `var(--${name})`, "stroke-dasharray": dash }));
    }
    const key = known.map((one) => {
      const line = part("i", { style: `color: var(--${one.name}); border-top-style: ${one.dash ? "dashed" : "solid"}` });
      return part("span", {}, line, `${one.label}: ${text(last(one))}`);
    });
    return [part("h3", {}, `${title}, at most ${text(most)}`), picture, part("p", {}, ...key)];
  }

  class GiantKittenHistory extends HTMLElement {
    #root = this.attachShadow({ mode: "open" });
    #content = part("div", {});
    #timer = 0;

    connectedCallback() {
      this.#root.replaceChildren(part("style", {}, STYLE), this.#content);
      this.#ask();
    }

    disconnectedCallback() {
      clearTimeout(this.#timer);
    }

    async #ask() {
      const interval = Number(this.getAttribute("interval")) || 2000;
      if (!document.hidden) {
        try {
          const answer = await fetch(this.getAttribute("src"), { cache: "no-store", credentials: "same-origin" });
          if (answer.ok) this.#show(await answer.json());
        } catch {
          /* The map above says that the program does not answer. What is drawn stays. */
        }
      }
      if (this.isConnected) this.#timer = setTimeout(() => this.#ask(), interval);
    }

    #show(state) {
      this.#content.replaceChildren(...(state.devices || []).map(({ name, samples }) => {
        const seconds = span(state.seconds, samples);
        const last = seconds < 120 ? `The last ${Math.round(seconds)} seconds` : `The last ${Math.round(seconds / 60)} minutes`;
        return part("section", { "aria-label": `${last} of ${name}` },
          part("h2", {}, last), ...CHARTS.flatMap((one) => chart(one, state.figures, seconds, samples)));
      }));
    }
  }

  customElements.define("giant-kitten-history", GiantKittenHistory);
})();
