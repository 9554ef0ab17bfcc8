/* Loads giant-kitten/map.js, which draws the memory map, as soon as the page has an element for it. */
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
  load(1000);
})();
