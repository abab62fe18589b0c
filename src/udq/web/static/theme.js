// Light or dark: as the system is, or as somebody chose it here. Runs before the page is first painted.

(() => {
  const page = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  try {
    const chosen = localStorage.getItem("udq-theme");
    if (chosen === "light" || chosen === "dark") page.dataset.theme = chosen;
  } catch {
    // A browser that keeps nothing: the system's choice stands.
  }
  const isDark = () => (page.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      page.dataset.theme = isDark() ? "light" : "dark";
      say();
      try {
        localStorage.setItem("udq-theme", page.dataset.theme);
      } catch {
        // It holds until the page is left.
      }
    });
    system.addEventListener("change", say);
    say();
  });
})();
