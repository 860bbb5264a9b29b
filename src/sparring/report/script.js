"use strict";
// Everything here is a comfort: the page is complete without it.

// Copy buttons.
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// The legend of Figure 2 shows and hides recipes, by the colour variable their marks carry.
for (const box of document.querySelectorAll("input[data-slot]")) {
  const colour = `var(--c${box.dataset.slot})`;
  const marks = document.querySelectorAll(
    `#plot2 .panel svg [fill="${colour}"], #plot2 .panel svg [stroke="${colour}"]`);
  box.addEventListener("change", () => marks.forEach((mark) => mark.classList.toggle("off", !box.checked)));
}

// A mark's title, at once and in the page's own type, where the browser's own would come late or never.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);
for (const title of document.querySelectorAll("figure svg path > title")) {
  const mark = title.parentElement;
  mark.addEventListener("pointerenter", (event) => {
    tip.textContent = mark.dataset.tip ||= title.textContent;
    title.remove();
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - box.width - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - box.height - 12, 8)}px`;
  });
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// Printing opens every folded table.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.open = true;
    folded.dataset.reopened = "";
  }
});
addEventListener("afterprint", () => {
  for (const folded of document.querySelectorAll("details[data-reopened]")) folded.open = false;
});
