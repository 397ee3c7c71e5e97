// Light or dark: the system's choice until the button is pressed; kept where the browser allows it.
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const store = (value) => { try { return value ? localStorage.setItem("slr-bench-theme", value) : localStorage.getItem("slr-bench-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const kept = store();
  if (kept) root.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; store(root.dataset.theme); label(); });
  label();
  addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll(".fold")) fold.open = true; });
}
