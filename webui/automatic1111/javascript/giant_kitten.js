/* Brings the memory map's element into the page: the server has it under giant-kitten/map.js once it has started. */
(() => {
  "use strict";
  const load = (wait) => {
    const script = document.createElement("script");
    script.src = "giant-kitten/map.js";
    script.onerror = () => {
      script.remove();
      setTimeout(() => load(Math.min(2 * wait, 10000)), wait);
    };
    document.head.append(script);
  };
  load(1000);
})();
