"use strict";

const SECONDS = 5;

async function refresh() {
    if (document.hidden || !getSelection().isCollapsed) return;
    const lost = document.getElementById("lost");
    try {
        const response = await fetch(location.pathname, {signal: AbortSignal.timeout(SECONDS * 1000)});
        if (!response.ok) throw new Error(response.statusText);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        document.querySelector("main").replaceWith(page.querySelector("main"));
        document.title = page.title;
        lost.hidden = true;
    } catch {
        lost.hidden = false;
    }
}

setInterval(refresh, SECONDS * 1000);
document.addEventListener("visibilitychange", refresh);
