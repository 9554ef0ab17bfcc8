/* Loads giant-kitten/map.js, which draws the memory map, as soon as the page has an element for it, and
 * keeps the controls of this page as they are in force when another page changes them. */
(() => {
  "use strict";
  const load = (wait) => {
    if (!document.querySelector("giant-kitten-map")) {
      setTimeout(() => load(wait), 500);
      return;
    }
    const script = document.createElement("script");
    script.src = "giant-kitten/map.js";
    /* A server that has just started may not serve it yet. */
    script.onerror = () => {
      script.remove();
      setTimeout(() => load(Math.min(2 * wait, 30000)), wait);
    };
    document.head.append(script);
  };

  /** A part of the panel that a map is in. */
  const near = (map, selector) => {
    for (let at = map; at; at = at.parentElement) {
      const found = at.querySelector(selector);
      if (found) return found;
    }
    return null;
  };

  /** Whether the controls of a panel show what is in force. */
  const isShown = (map, { by_hand, reserve_by_hand }) => {
    const mode = near(map, "[id*=giant_kitten_memory_mode] input:checked");
    const reserve = near(map, "[id*=giant_kitten_memory_reserve] input[type=number]");
    if (!mode || !reserve || (mode.value === "by hand") !== by_hand) return false;
    return !by_hand || Math.abs(Number(reserve.value) - reserve_by_hand / 2 ** 30) < 0.01;
  };

  /* What each map has shown last of the mode and the reserve. What somebody is about to change in the
   * controls stays until another page has changed what is in force. */
  const known = new WeakMap();
  document.addEventListener("giant-kitten-state", ({ target, detail }) => {
    if (!("by_hand" in detail)) return;
    const now = JSON.stringify([detail.by_hand, detail.reserve_by_hand]);
    if (known.get(target) === now) return;
    known.set(target, now);
    /* This hidden button reads the controls again. */
    const read = near(target, "button[id*=giant_kitten_memory_read]");
    if (read && !isShown(target, detail)) read.click();
  });
  load(1000);
})();
