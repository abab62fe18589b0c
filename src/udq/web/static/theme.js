// Light or dark colours: those of the system, or the user's choice on this page. Runs before the first paint.

(() => {
  const page = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  try {
    const chosen = localStorage.getItem("udq-theme");
    if (chosen === "light" || chosen === "dark") page.dataset.theme = chosen;
  } catch {
    // Without storage: the colours of the system.
  }
  const isDark = () => (page.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const update = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      page.dataset.theme = isDark() ? "light" : "dark";
      update();
      try {
        localStorage.setItem("udq-theme", page.dataset.theme);
      } catch {
        // Without storage, the choice lasts until the page is closed.
      }
    });
    system.addEventListener("change", update);
    update();
  });
})();
