// A classic script in the head: it runs before the first paint, so that a remembered theme never flashes.
(() => {
  const KEY = "routerretriever-theme";
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is switched off
    }
  }

  function current() {
    return root.dataset.theme ?? (prefersDark.matches ? "dark" : "light");
  }

  function label() {
    const other = current() === "dark" ? "light" : "dark";
    document.getElementById("theme").setAttribute("aria-label", `Use the ${other} theme`);
  }

  function toggle() {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, root.dataset.theme);
    } catch {
      // not remembered then
    }
    label();
  }

  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  document.addEventListener("DOMContentLoaded", () => {
    label();
    document.getElementById("theme").addEventListener("click", toggle);
    prefersDark.addEventListener("change", label);
  });
})();
