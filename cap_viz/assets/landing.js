// Scroll to the heading ANCHOR. What is drawn above it may still grow: follow it for a moment, until the reader moves.
(() => {
  const until = Date.now() + 4000;
  let moved = false;
  for (const event of ["wheel", "touchstart", "keydown", "pointerdown"])
    window.addEventListener(event, () => { moved = true; }, {once: true});
  const follow = () => {
    const heading = document.getElementById(ANCHOR);
    if (moved || Date.now() > until) return;
    if (heading) heading.scrollIntoView({block: "start"});
    setTimeout(follow, 100);
  };
  follow();
})();
