"""Writes docs/page.png: the server's page after a long text and some questions, in a headless Chromium.

Needs chromium and chromedriver, and `pip install ".[test]"`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import Page, chromium  # noqa: E402
from server_process import SMALL, Server  # noqa: E402

from asymkv_gguf import recall  # noqa: E402

TARGET = ROOT / "docs" / "page.png"
WIDTH, HEIGHT, SCALE = 1280, 800, 1.25
QUESTIONS = 3


def main() -> None:
    document = recall.make_document(1, tokens=3900)
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as driver,
        Server(*SMALL, "-c", "4096") as server,
    ):
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False},
        )
        page = Page(driver, server.url)
        page.begin(max_tokens="1")
        page.paste(document.text + document.questions[0].prompt)
        page.answered(1)
        for question in document.questions[1:QUESTIONS]:
            page.ask(question.prompt)
        with server.http() as client:
            page.pictured(client.get("/asymkv/slots").json()["slots"][0]["tokens"])
        driver.save_screenshot(str(TARGET))
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
