/* The panel in ComfyUI's sidebar: the memory map, the mode and the actions. */
import { app } from "../../scripts/app.js";

/* The colours are ComfyUI's own, so that the buttons follow its theme. The splitter has to leave the
 * panel as much room as it needs, while it is open; elsewhere the panel scrolls. */
const STYLE = `
  .p-splitterpanel:has(.giant-kitten) { min-width: 194px }
  .giant-kitten { padding: 8px; overflow: auto; height: 100%; width: 100%; min-width: 0; font-size: 13px; box-sizing: border-box;
    color: var(--input-text, var(--fg-color, #ddd)) }
  .giant-kitten > * { min-width: 170px; max-width: max(170px, 100vw - 80px) }
  .giant-kitten form { display: grid; grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: 6px; margin: 0 0 8px }
  .giant-kitten label { display: flex; flex-wrap: wrap; gap: 2px 6px; align-items: center; grid-column: 1 / -1 }
  .giant-kitten button, .giant-kitten input { font: inherit; padding: 5px 8px; border-radius: 6px; min-height: 30px;
    border: 1px solid var(--border-color, #555); background: var(--comfy-input-bg, #2b2b2b); color: inherit }
  .giant-kitten button { cursor: pointer; overflow-wrap: anywhere }
  .giant-kitten button:hover { background: var(--comfy-menu-secondary-bg, var(--border-color, #444)) }
  .giant-kitten button:focus-visible, .giant-kitten input:focus-visible { outline: 2px solid var(--p-primary-color, #60a5fa) }
  .giant-kitten button[disabled] { opacity: 0.5; cursor: default }
  .giant-kitten input { width: 6em }
  .giant-kitten [role=status] { margin: 0 0 8px; min-height: 1.4em }
`;

const MISSING = "The package giant-kitten is not in ComfyUI's Python: run “python -m giant_kitten webui install FOLDER” with "
  + "ComfyUI's folder, from a Python that has it, and restart ComfyUI.";
const NO_NUMBER = "Write the reserve as a number of GiB, such as 1.6.";
const GONE = "ComfyUI does not answer. Has it ended?";
/* Milliseconds until a wait is explained, and until a server that is silent counts as gone. */
const PATIENCE = 15000, SILENCE = 10000;

function part(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Why there is no answer yet: "" if the server works, else a sentence. */
async function silence() {
  try {
    const answer = await fetch("giant-kitten/state", { cache: "no-store", signal: AbortSignal.timeout(SILENCE) });
    return answer.status === 404 ? MISSING : "";
  } catch {
    return GONE;
  }
}

/** Sends an action. `say` shows a sentence; it always ends with one. */
async function send(body, say) {
  const gone = new AbortController();
  let over = false, trouble = "";
  const explain = async () => {
    trouble = await silence();
    if (over) return;
    if (trouble) gone.abort();
    else {
      say("A prompt still runs. This is done right after it.");
      waiting = setTimeout(explain, PATIENCE);
    }
  };
  let waiting = setTimeout(explain, PATIENCE);
  say("Waiting for the queue…");
  try {
    const answer = await fetch("giant-kitten/panel", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: gone.signal,
    });
    const text = await answer.text();
    let said = "";
    try {
      said = JSON.parse(text).detail;
    } catch {
      /* Whoever answered, it was not giant-kitten. */
    }
    say(said || (answer.status === 404 || answer.status === 405 ? MISSING : `ComfyUI answered with status ${answer.status}.`));
  } catch {
    say(trouble || GONE);
  } finally {
    over = true;
    clearTimeout(waiting);
  }
}

/** Builds the panel inside an element of ComfyUI. */
function build(element) {
  if (element.querySelector(".giant-kitten")) return;
  const said = part("p", { role: "status" });
  const say = (text) => (said.textContent = text);
  const map = part("giant-kitten-map", { src: "giant-kitten/state" });
  const reserve = part("input", { type: "number", min: 0, step: 0.1, value: 0, "aria-label": "Reserve by hand in GiB" });
  const button = (text, hint, body) => {
    const made = part("button", { type: "button", title: hint }, text);
    made.addEventListener("click", () => {
      const wanted = body();
      if (typeof wanted === "string") say(wanted);
      else send(wanted, say);
    });
    return made;
  };
  const suggested = () => {
    const device = map.state && map.state.devices && map.state.devices[0];
    const guide = device && device.guide;
    if (!guide) return "There is no suggestion yet: run another prompt, without an action in it.";
    if (guide.suggested) {
      reserve.value = (guide.suggested / 2 ** 30).toFixed(1);
      return { action: "activate", reserve: guide.suggested / 2 ** 30 };
    }
    return guide.prefers_automatic ? { action: "automatic" } : guide.text;
  };
  const form = part("form", {},
    button("Automatic", "The reserve is determined from the work.", () => ({ action: "automatic" })),
    button("Apply the suggestion", "Takes what the last prompt suggests.", suggested),
    part("label", {}, "Reserve (GiB)", reserve,
      button("Activate", "Keeps this reserve free for everything beside the model.",
        () => (reserve.value ? { action: "activate", reserve: Number(reserve.value) } : NO_NUMBER))),
    button("Free VRAM", "Moves everything to host memory, so that another program can use the card.", () => ({ action: "free VRAM" })),
    button("Take VRAM back", "Ends that: what was in force before is again.", () => ({ action: "take back" })),
    button("Disable", "Reserves nothing.", () => ({ action: "disable" })));
  form.addEventListener("submit", (event) => event.preventDefault());
  /* The field has the reserve in force, unless somebody is writing into it. */
  let shown = null;
  map.addEventListener("giant-kitten-state", ({ detail }) => {
    if (!("reserve_by_hand" in detail) || detail.reserve_by_hand === shown || document.activeElement === reserve) return;
    shown = detail.reserve_by_hand;
    if (shown !== null) reserve.value = Number((shown / 2 ** 30).toFixed(2));
  });
  element.append(part("div", { class: "giant-kitten" }, part("style", {}, STYLE), form, said, map));
  silence().then((trouble) => trouble && say(trouble));
}

app.registerExtension({
  name: "giant-kitten",
  async setup() {
    document.head.append(part("script", { src: "giant-kitten/map.js" }));
    app.extensionManager.registerSidebarTab({
      id: "giant-kitten",
      icon: "pi pi-chart-bar",
      title: "Giant kitten",
      tooltip: "Giant kitten: the memory map",
      type: "custom",
      render: build,
    });
  },
});
