/* Brings the memory map's element into the page, once the page has one: the server has it under giant-kitten/map.js. */
(() => {
  "use strict";
  const load = (wait) => {
    if (!document.querySelector("giant-kitten-map")) {
      setTimeout(() => load(wait), 500);
      return;
    }
    const script = document.createElement("script");
    script.src = "giant-kitten/map.js";
    /* A server that has only just started may not have it yet. */
    script.onerror = () => {
      script.remove();
      setTimeout(() => load(Math.min(2 * wait, 30000)), wait);
    };
    document.head.append(script);
  };
  load(1000);
})();
