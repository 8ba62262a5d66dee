"""Open pages in headless Chromium, for tests: what a person would see, hear and stumble over.

    with Browser() as browser:
        page = browser.open(path, width=360)
        assert page.errors() == []

It speaks the DevTools protocol over Chromium's debugging pipe, so that nothing but Chromium is
needed: `apt-get install chromium`, or its path in CHROMIUM.

Source: https://chromedevtools.github.io/devtools-protocol (Page, Runtime, Log, Emulation, Input).
"""

import base64
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

import pytest

ANSWERS_S = 300  # a browser that takes longer hangs
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which needs rights that a container seldom has; pages are our own files
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)
# What nobody may see: a page, or words in it, wider than the window, save where one can scroll.
CUT_OFF = """(() => {
  const out = [], wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) out.push('the page scrolls sideways');
  const scrolls = e => e && (e.matches('[tabindex="0"]') &&
    getComputedStyle(e).overflowX === 'auto' || scrolls(e.parentElement));
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (!box.width || scrolls(e)) continue;
    if (box.right > wide + 0.5 || box.left < -0.5) out.push(e.tagName + ' leaves the window');
    const own = e.closest('svg');
    if (own && own !== e) {
      const frame = own.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
          box.bottom > frame.bottom + 1) out.push(`"${e.textContent}" leaves its drawing`);
    }
  }
  return out;
})()"""
# Words whose contrast with what is behind them is below 4.5 (WCAG 2, level AA).
PALE_WORDS = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const out = [];
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!e.getBoundingClientRect().width || ['TITLE', 'DESC'].includes(e.tagName.toUpperCase()))
      continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) out.push(e.textContent.trim().slice(0, 60));
  }
  return out;
})()"""


def chromium() -> str | None:
    """Path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A headless Chromium; without one the test is skipped, and says why."""

    def __init__(self):
        if chromium() is None:
            pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")

    def __enter__(self) -> "Browser":
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        plumbing = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", plumbing, chromium(), *FLAGS, f"--user-data-dir={self._home.name}"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._ids, self._read, self.events = itertools.count(1), b"", []
        return self

    def __exit__(self, *exception) -> None:
        self._process.terminate()
        self._process.wait(ANSWERS_S)
        os.close(self._in)
        os.close(self._out)
        self._home.cleanup()

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """Send a command and wait for its answer; events on the way are kept."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(time.monotonic() + ANSWERS_S)
            if answer.get("id") != number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def open(
        self, path: str | os.PathLike, *, width: int, height: int = 900, dark: bool = False
    ) -> "Page":
        """Open a file in a window of this size, in CSS pixels, and wait until it has loaded.

        dark: for a person who has asked for light words on dark ground.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=pathlib.Path(path).absolute().as_uri())
        page.wait_for("Page.loadEventFired")
        return page

    def _receive(self, deadline: float) -> dict:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(deadline - time.monotonic(), 0))
            chunk = os.read(self._in, 1 << 16) if ready else b""
            if not chunk:
                raise RuntimeError("Chromium does not answer")
            self._read += chunk
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)


class Page:
    """An open page; `call` reaches every command of the protocol."""

    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session

    def call(self, method: str, **params) -> dict:
        return self._browser.call(method, self._session, **params)

    def wait_for(self, event: str, seconds: float = ANSWERS_S) -> None:
        deadline = time.monotonic() + seconds
        while not any(found["method"] == event for found in self._events()):
            self._browser.events.append(self._browser._receive(deadline))

    def evaluate(self, script: str):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def errors(self) -> list[str]:
        """Whatever the console shows, exceptions, and what was asked of a network."""
        out = []
        for event in self._events():
            method, params = event["method"], event["params"]
            if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                out.append(json.dumps(params)[:300])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("data:", "file:", "about:")):
                    out.append(f"fetches {url}")
        return out

    def cut_off(self) -> list[str]:
        """What lies outside the window, or of a drawing outside its frame."""
        return self.evaluate(CUT_OFF)

    def pale_words(self) -> list[str]:
        """Words too pale to read for many."""
        return self.evaluate(PALE_WORDS)

    def ground(self) -> list[int]:
        """Red, green and blue behind the page."""
        return self.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )

    def spoken(self) -> list[tuple[str, str]]:
        """`(role, name)` of all that a screen reader meets, in order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def press(self, key: str) -> None:
        """Press and release a key, such as "Tab" or "ArrowRight"."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40}
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )

    def screenshot(self, path: str | os.PathLike) -> None:
        """The whole page, however long, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {**size, "scale": 1}
        png = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(png))

    def print_preview(self, width: int = 700) -> None:
        """Show the page as it prints, as wide as a sheet of A4 within its margins."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", media="print")

    def pdf(self) -> bytes:
        """The page as it prints, on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self.call("Page.printToPDF", **size)["data"])

    def _events(self) -> list[dict]:
        return [e for e in self._browser.events if e.get("sessionId") == self._session]
