"""`python -m tests.bench.explorers`: how fast the explorers answer, in a real headless Chromium on JupyterLab.

Each explorer has a notebook and a kernel of its own. Above it stands a bare slider that swaps ready-made pictures of
the same size: the least that any live picture costs on this machine. Both take turns, so that their ratio holds
whatever else the machine does. A move is a key press; it ends with the first frame that shows other pixels.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import psutil
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from lora_lab.render import KERNEL
from tests.browser.conftest import CHROMIUM_WORDS, Lab, find_chromium, jupyterlab, new_page

BAR, BARE, DIAL, FIRST = 60, 1.3, 300, 2000  # ms, times the bare swap, ms to the first token, ms to the first picture
MOVES, BURST = 15, 30
EXPLORERS = {
    "results": "explorers.results()",
    "calculator": "explorers.calculator()",
    "svd": "explorers.svd()",
    "svd, update": "from lora_lab import explore_svd\nexplorers.svd(explore_svd.trained_update())",
    "diagram": "explorers.diagram()",
    "alpha_dial": "explorers.alpha_dial()",
    "live_dial": "explorers.live_dial()",
    "training": "explorers.training()",
}
SWAP = """
import io
import ipywidgets
from PIL import Image, ImageDraw

def picture(i):
    image, file = Image.new("RGB", (1123, 518), "white"), io.BytesIO()
    for x in range(0, 1123, 20):
        ImageDraw.Draw(image).line([(x, 500 - x % (30 * i + 7)), (x + 30, 20 + i)], fill=(0, 114, 178), width=3)
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()

pictures = [picture(i) for i in range(20)]
image, slider = ipywidgets.Image(value=pictures[0], width=780, height=360), ipywidgets.IntSlider(max=19)
slider.observe(lambda change: setattr(image, "value", pictures[change.new]), "value")
ipywidgets.VBox([slider, image])
"""

# What is timed, in the page: `lab.run` runs a cell, `lab.ready` waits for other pixels, `lab.watch` watches a burst.
SCRIPT = """() => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const frame = () => new Promise(requestAnimationFrame);
    const output = i => notebook.widgets[i].outputArea.node;
    const image = i => output(i).querySelector('.jupyter-widgets img');
    const canvas = new OffscreenCanvas(280, 130).getContext('2d', {willReadFrequently: true});
    const drawn = i => {
        canvas.clearRect(0, 0, 280, 130);
        canvas.drawImage(image(i), 0, 0, 280, 130);
        return canvas.getImageData(0, 0, 280, 130).data;
    };
    const same = (a, b) => a.every((value, place) => value === b[place]);
    const visible = i => { const now = image(i); return now && now.complete && now.naturalWidth > 0; };
    window.lab = {
        async run(i) {
            notebook.activeCellIndex = i;
            const start = performance.now();
            jupyterapp.commands.execute('notebook:run-cell');
            while (!visible(i)) await frame();
            return performance.now() - start;
        },
        show: i => image(i).scrollIntoView({block: 'center'}),
        slider: i => output(i).querySelector('[role=slider]'),
        place(i) {
            const slider = lab.slider(i);
            return [Number(slider.getAttribute('aria-valuenow')), Number(slider.getAttribute('aria-valuemax'))];
        },
        async settled(i) {  // live text goes on writing: until it stood still for half a second
            for (let last = image(i).src, since = performance.now(); performance.now() - since < 500; await frame())
                if (image(i).src !== last) [last, since] = [image(i).src, performance.now()];
        },
        ready(i) {
            const before = drawn(i), source = image(i).src;
            lab.slider(i).focus();
            lab.moved = new Promise(resolve => document.addEventListener('keydown', async event => {
                while (image(i).src === source || !image(i).complete) await frame();
                const time = performance.now() - event.timeStamp;
                for (let n = 0; n < 300 && same(drawn(i), before); n++) await frame();
                resolve(same(drawn(i), before) ? null : time);
            }, {capture: true, once: true}));
        },
        async watch(i) {
            lab.slider(i).focus();
            const places = new Set(), pictures = new Set();
            let last = performance.now();
            for (let source = image(i).src; performance.now() - last < 1000; await frame()) {
                if (image(i).src !== source) [source, last] = [image(i).src, performance.now()];
                const picture = image(i).getBoundingClientRect(), all = output(i).getBoundingClientRect();
                places.add([picture.x, picture.y, picture.width, picture.height, all.height].join());
                pictures.add(source);
            }
            return {layouts: [...places], pictures: pictures.size - 1};
        },
    };
}"""
READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


def move(page, cell: int) -> float:
    """Milliseconds from a key press on the cell's slider to the first frame with other pixels."""
    page.evaluate("lab.settled(1)")  # the explorer: it is not to work on while the bare one moves
    page.evaluate(f"lab.ready({cell})")
    now, last = page.evaluate(f"lab.place({cell})")
    page.keyboard.press("ArrowRight" if now < last else "Home")
    time = page.evaluate("lab.moved")
    if time is None:
        raise RuntimeError(f"a move of the slider in cell {cell} changed no pixel")
    return time


def burst(page, cell: int, moves: int = BURST) -> dict:
    """Quick key presses, there and back: how many pictures and layouts were seen, and how many screens lacked one.

    What is seen is what the browser put on the screen, by its own screencast: an `img` that loads still shows the
    picture it had, whatever its properties say.
    """
    page.evaluate(f"lab.settled({cell})")
    page.evaluate(f"() => lab.show({cell})")
    session, screens = page.context.new_cdp_session(page), []

    def keep(event: dict) -> None:
        screens.append(event["data"])
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 80})
    page.evaluate(f"() => {{ lab.seen = lab.watch({cell}); }}")
    for i in range(moves):
        page.keyboard.press("ArrowRight" if i % 10 < 5 else "ArrowLeft")
        page.wait_for_timeout(20)
    seen = page.evaluate("lab.seen")
    session.send("Page.stopScreencast")
    session.detach()
    x, y, width, height, _ = map(float, seen["layouts"][0].split(","))
    blank = 0
    for screen in screens:
        picture = Image.open(io.BytesIO(base64.b64decode(screen))).convert("L")
        blank += np.asarray(picture.crop((x, y, x + width, min(y + height, 900)))).min() > 128  # no ink in it
    return seen | {"screens": len(screens), "blank": int(blank)}


def measure(browser, lab: Lab, name: str, moves: int = MOVES) -> dict:
    """One explorer in a fresh notebook, page and kernel: a row of the table, times in milliseconds."""
    cells = [new_code_cell(SWAP), new_code_cell(f"from lora_lab import explorers\n{EXPLORERS[name]}")]
    path = lab.folder / "notebooks" / "bench.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)
    page = new_page(browser)
    page.goto(lab.url(path.name), wait_until="commit")
    page.wait_for_function(READY)
    page.evaluate(SCRIPT)
    page.evaluate("lab.run(0)")
    first = page.evaluate("lab.run(1)")
    bare, ours = [], []
    for i in range(moves + 2):
        times = move(page, 0), move(page, 1)
        if i >= 2:  # the first ones warm up
            bare.append(times[0])
            ours.append(times[1])
    seen = burst(page, 1)
    page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    page.context.close()
    row = {"explorer": name, "first_picture": first, "bare": statistics.median(bare), "ours": statistics.median(ours)}
    row |= {"slowest": max(ours), "ratio": row["ours"] / row["bare"], "moves": moves, "burst": seen}
    quick = row["ours"] <= DIAL if name == "live_dial" else row["ours"] <= BAR or row["ratio"] <= BARE
    steady = len(seen["layouts"]) == 1 and seen["blank"] == 0
    return row | {"met": {"move": quick, "first picture": first <= FIRST, "burst": steady}}


HEAD = (
    f"{'':<13}{'first ms':>9}{'bare ms':>9}{'ours ms':>9}{'ratio':>8}{'slowest':>9}"
    f"{'shown':>12}{'blank':>11}{'shifts':>8}"
)


def line(row: dict) -> str:
    """A row as text."""
    seen = row["burst"]
    missed = [what for what, met in row["met"].items() if not met]
    return (
        f"{row['explorer']:<13}{row['first_picture']:>9.0f}{row['bare']:>9.1f}{row['ours']:>9.1f}{row['ratio']:>8.2f}"
        f"{row['slowest']:>9.0f}{seen['pictures']:>6} of {BURST}{seen['blank']:>5} of {seen['screens']}"
        f"{len(seen['layouts']) - 1:>8}   {'missed: ' + ', '.join(missed) if missed else 'all met'}"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure every explorer. The exit status is 0 whatever the times are: a time is no test."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.explorers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPLORERS)}; none: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it all to FILE too")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(EXPLORERS):
        parser.error(f"no explorer {unknown.pop()!r}: there are {', '.join(EXPLORERS)}")
    if not (chromium := find_chromium()):
        parser.error("no Chromium or Chrome on the PATH: install one, or set LORA_LAB_CHROMIUM to its program")
    from playwright.sync_api import sync_playwright

    report = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "load_before": psutil.getloadavg()[0]}
    rows = report["rows"] = []
    with tempfile.TemporaryDirectory() as home, jupyterlab(Path(home)) as lab, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_WORDS)
        print(f"{report['machine']}, Chromium {browser.version}, load {report['load_before']:.1f}; {MOVES} moves")
        print(f"\n{HEAD}")
        for name in args.names or EXPLORERS:
            rows.append(measure(browser, lab, name))
            print(line(rows[-1]), flush=True)
        browser.close()
    print(
        f"\nbars: a move (to the first new token in live_dial) at most {BAR} ms or {BARE} x bare ({DIAL} ms); first "
        f"picture {FIRST} ms; no blank, no shift\nload at the end: {psutil.getloadavg()[0]:.1f}"
    )
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
