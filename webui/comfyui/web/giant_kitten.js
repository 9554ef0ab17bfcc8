/* The panel in ComfyUI's sidebar: the memory map, the mode and the actions. */
import { app } from "../../scripts/app.js";

const STYLE = `
  .giant-kitten { padding: 8px; overflow: auto; height: 100%; font-size: 13px; box-sizing: border-box;
    min-width: 190px; max-width: max(190px, 100vw - 64px) }
  .giant-kitten form { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 0 0 8px }
  .giant-kitten label { display: flex; flex-wrap: wrap; gap: 2px 6px; align-items: center }
  .giant-kitten input[type=number] { width: 5em }
  .giant-kitten [role=status] { margin: 0 0 8px; min-height: 1.4em }
`;

function part(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Builds the panel inside an element of ComfyUI. */
function build(element) {
  if (element.querySelector(".giant-kitten")) return;
  const said = part("p", { role: "status" });
  const map = part("giant-kitten-map", { src: "giant-kitten/state" });
  const reserve = part("input", { type: "number", min: 0, step: 0.1, value: 0, "aria-label": "Reserve by hand in GiB" });
  const act = async (body) => {
    said.textContent = "Waiting for the queue…";
    const answer = await fetch("giant-kitten/panel", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    said.textContent = (await answer.json()).detail;
  };
  const button = (text, body) => {
    const made = part("button", { type: "button" }, text);
    made.addEventListener("click", () => act(body()));
    return made;
  };
  const suggestion = button("Apply the suggestion", () => {
    const device = map.state && map.state.devices && map.state.devices[0];
    const found = device && device.guide && device.guide.suggested;
    if (found) reserve.value = (found / 2 ** 30).toFixed(1);
    return found ? { action: "activate", reserve: found / 2 ** 30 } : { action: "automatic" };
  });
  element.append(
    part("div", { class: "giant-kitten" },
      part("style", {}, STYLE),
      part("form", {},
        button("Automatic", () => ({ action: "automatic" })),
        part("label", {}, "Reserve (GiB)", reserve),
        button("Activate", () => ({ action: "activate", reserve: Number(reserve.value) })),
        suggestion,
        button("Free VRAM", () => ({ action: "free VRAM" })),
        button("Disable", () => ({ action: "disable" }))),
      said, map));
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
