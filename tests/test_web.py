"""The page, in a real browser, against a real server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Page, chromium
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from server_process import SMALL, Server

from asymkv_gguf import recall

DOCUMENT = recall.make_document(1, tokens=1200)
FACTS = "The code of Ada Moon is amber. The code of Nina Hansen is coral.\n"
ENDLESS = "The harbour was quiet that morning."  # greedily, the model goes on until the context is full


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def server(driver: Chrome) -> Iterator[Server]:  # no server where there is no browser
    with Server(*SMALL, "-c", "4096") as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with Server(*SMALL, "--api-key", "let-me-in") as server:
        yield server


@pytest.fixture
def page(driver: Chrome, server: Server) -> Iterator[Page]:
    """A first visit, with answers of one token.

    Whatever a test does, the browser complains about nothing and asks nobody else.
    """
    page = Page(driver, server.url)
    page.errors(), page.requested()
    page.begin(max_tokens="1")
    yield page
    assert page.errors() == []
    requested = page.requested()
    assert requested
    assert [url for url in requested if not url.startswith(f"{server.url}/")] == []


def slots(server: Server, path: str = "") -> Any:
    return httpx.get(f"{server.url}/asymkv/slots{path}", trust_env=False, timeout=30).json()


# the conversation


def test_a_typed_message_is_answered(page: Page) -> None:
    assert page.ask(FACTS.strip() + " The code of Ada Moon is") == "amber"
    assert page.states() == ["done"]
    assert page.texts()[0].startswith("The code of Ada Moon")
    assert "1 written" in page.meta()


def test_an_answer_appears_while_it_is_written(page: Page) -> None:
    page.begin()
    page.write(ENDLESS)
    first = page.until(lambda: page.texts()[-1] if page.busy else "")
    second = page.until(lambda: text if len(text := page.texts()[-1]) > len(first) else "")
    assert page.busy
    assert second.startswith(first.rstrip())
    page.one("#stop").click()
    page.answered(1)


def test_stop_ends_the_answer_on_the_server_too_and_keeps_its_text(page: Page, server: Server) -> None:
    page.begin()
    page.write(ENDLESS)
    page.until(lambda: page.busy and page.texts()[-1])
    page.one("#stop").click()
    text = page.answered(1)
    assert text
    assert page.states() == ["stopped"]
    page.until(lambda: not slots(server)["slots"][0]["busy"])
    assert slots(server)["slots"][0]["tokens"] < 4000


def test_escape_stops_as_the_button_does(page: Page) -> None:
    page.begin()
    page.write(ENDLESS)
    page.until(lambda: page.busy and page.texts()[-1])
    page.one("#prompt").send_keys(Keys.ESCAPE)
    assert page.answered(1)
    assert page.states() == ["stopped"]


def test_while_a_long_text_is_read_the_page_says_how_far_it_is(page: Page) -> None:
    page.script(
        "window.said = []; new MutationObserver(() => {"
        "  const line = document.querySelector('.reading:not([hidden]) p'); if (line) said.push(line.textContent); "
        "}).observe(document.getElementById('turns'), {subtree: true, childList: true, characterData: true})"
    )
    text = recall.make_document(1, tokens=3900).text.strip()
    page.paste(text)
    page.answered(1)
    said = page.script("return said")
    n_tokens = len(recall.tokenize(text)) + 1  # and the first one, which starts every text
    progress = rf"Reading [\d,]+ of {n_tokens:,} tokens( · \d+ already in the cache)? · [\d,]+ tokens/s · \d+ s left"
    assert any(re.fullmatch(progress, line) for line in said)


def test_a_reload_keeps_the_conversation_and_the_next_turn_reuses_the_cache(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    before = page.texts()
    page.open()
    assert page.texts() == before
    assert page.ask("The code of Nina Hansen is").startswith("coral")
    usage = page.script("return JSON.parse(localStorage['asymkv.conversation']).at(-1).usage")
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached >= 15
    assert f"{cached} of them from the cache" in page.meta()


def test_an_answer_that_a_reload_cut_is_kept_as_far_as_it_came(page: Page) -> None:
    page.begin()
    page.write(ENDLESS)
    page.until(lambda: page.busy and page.texts()[-1])
    page.open()
    assert page.states() == ["stopped"]
    assert page.texts()[1]
    assert not page.busy


def test_an_edited_message_is_sent_again_and_undo_brings_the_old_turns_back(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.ask("The code of Nina Hansen is")
    before = page.texts()
    page.press(".turn:nth-child(1)", "Edit")
    box = page.one(".edit textarea")
    assert box.get_attribute("value") == before[0]
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.NULL, "The code of Ada Moon is ivory. The code of Ada Moon is", Keys.ENTER)
    assert page.answered(1) == "ivory"
    assert len(page.texts()) == 2
    page.one("#undo").click()
    page.until(lambda: page.texts() == before)


def test_an_edit_can_be_given_up(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    before = page.texts()
    page.one("#prompt").send_keys(Keys.ARROW_UP)  # the last message, as in a shell
    page.one(".edit textarea").send_keys(" nothing", Keys.ESCAPE)
    assert page.texts() == before


def test_a_regenerated_answer_takes_the_place_of_the_old_one(page: Page) -> None:
    first = page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.script("document.querySelector('.turn.answer').remove()")  # so that only a new one can be found
    page.driver.refresh()
    page.until(lambda: len(page.states()) == 1)
    page.press(".turn.answer", "Regenerate")
    assert page.answered(1) == first
    assert len(page.texts()) == 2


def test_a_deleted_message_goes_with_its_answer(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.ask("The code of Nina Hansen is")
    before = page.texts()
    page.press(".turn:nth-child(3)", "Delete")
    page.until(lambda: page.texts() == before[:2])
    page.one("#undo").click()
    page.until(lambda: page.texts() == before)


def test_a_new_conversation_can_be_taken_back(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    before = page.texts()
    page.one("#new").click()
    page.until(lambda: page.texts() == [])
    assert page.one("#empty").is_displayed()
    page.one("#undo").click()
    page.until(lambda: page.texts() == before)


def test_two_tabs_show_one_conversation(page: Page) -> None:
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    second = page.driver.current_window_handle
    page.open()
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.driver.switch_to.window(first)
    page.until(lambda: len(page.texts()) == 2 and page.texts()[1] == "amber")
    page.driver.switch_to.window(second)
    page.driver.close()
    page.driver.switch_to.window(first)


def test_a_text_file_comes_before_the_question(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "facts.txt"
    file.write_text(FACTS)
    page.one("#file").send_keys(str(file))
    page.until(lambda: "facts.txt" in page.one("#files").text)
    assert page.ask("The code of Nina Hansen is") == "coral"
    assert page.texts()[0] == f"{FACTS.strip()}\n\nThe code of Nina Hansen is"


def test_a_file_that_is_no_text_is_refused_in_one_sentence(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "picture.bin"
    file.write_bytes(b"\x89PNG\xff\xfe")
    page.one("#file").send_keys(str(file))
    page.until(lambda: page.one("#notice-text").text == "picture.bin is not UTF-8 text; save it as plain text first.")


def test_settings_are_sent_and_kept(page: Page) -> None:
    page.one("#open-settings").click()
    page.one("#system").send_keys("The code of Ada Moon is amber.")
    page.one("#max_tokens").clear()
    page.one("#max_tokens").send_keys("3")
    page.one("#settings").find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    page.open()
    page.ask(ENDLESS)
    assert "3 written" in page.meta()
    assert "cut at the token limit" in page.meta()
    assert page.ask("The code of Ada Moon is").startswith("amber")  # which only the system prompt says


def test_what_a_model_writes_is_never_markup(page: Page) -> None:
    hostile = (
        "<img src=x onerror='document.title=1'> **bold** `a<b` [here](javascript:alert(1)) [there](https://example.org)\n\n"
        "- one\n- two\n\n```html\n<script>document.title = 2</script>\n```\n\n| a | b |\n|---|---|\n| <i>1</i> | 2 |"
    )
    page.keep(
        "asymkv.conversation", [{"role": "user", "text": "<b>me</b>"}, {"role": "assistant", "text": hostile, "state": "done"}]
    )
    page.open()
    user, answer = page.texts()
    assert user == "<b>me</b>"
    assert "<img src=x onerror='document.title=1'> bold a<b here (javascript:alert(1)) there" in answer
    assert [node.text for node in page.all(".body strong, .body li, .body td")] == ["bold", "one", "two", "<i>1</i>", "2"]
    assert page.one(".body pre").text == "<script>document.title = 2</script>"
    assert page.all(".body img, .body script, .body i, .body b") == []
    assert [link.get_attribute("href") for link in page.all(".body a")] == ["https://example.org/"]
    assert page.driver.title == "asymkv"


def test_what_a_model_thinks_before_it_answers_is_folded_away(page: Page) -> None:
    answered = {"role": "assistant", "text": "<think>\nLet me *see*.\n</think>\n\nBecause.", "state": "done"}
    page.keep("asymkv.conversation", [{"role": "user", "text": "Why?"}, answered])
    page.open()
    assert page.texts() == ["Why?", "Because."]
    assert not page.one(".thoughts").is_displayed()
    page.one(".thinking summary").click()
    assert page.one(".thoughts").text == "Let me see."


# the cache


def test_the_picture_shows_what_the_slots_endpoint_tells(page: Page, server: Server) -> None:
    page.paste(DOCUMENT.text + DOCUMENT.questions[0].prompt)
    page.answered(1)
    now = slots(server)["slots"][0]
    page.until(lambda: page.one("#figure-tokens").text == f"{now['tokens']:,}")
    assert page.one("#figure-slots").text == f"{now['live']:,}"
    page.pictured(now["tokens"])
    strip = page.one("#strip")
    rows = [slots(server, f"/0?layer={layer}") for layer in range(now["layers"])]
    assert strip.get_attribute("data-rows") == str(now["layers"])
    assert strip.get_attribute("data-slots") == str(now["live"])
    assert strip.get_attribute("data-heaviest") == str(max(max(row["cardinality"]) for row in rows))
    counters = {
        node.get_attribute("data-name"): node.find_element(By.TAG_NAME, "dd").text for node in page.all("#counters div")
    }
    for name in ("compressions", "merges", "evictions"):
        assert counters[name] == f"{now[name]:,}"
    assert page.one("#memory-text").text == "320 KiB instead of 5 MiB for a full cache"
    assert page.one("#toggle-cache").text == f"Cache {now['live']} / {now['tokens']:,}"


def test_dense_and_merged_parts_have_the_colours_of_the_legend(page: Page, server: Server) -> None:
    page.paste(DOCUMENT.text + DOCUMENT.questions[0].prompt)
    page.answered(1)
    page.pictured(slots(server)["slots"][0]["tokens"])
    # the last tokens are never merged; somewhere before them a slot stands for many
    pixels = page.script(
        "const canvas = document.getElementById('strip'), context = canvas.getContext('2d');"
        "const {data} = context.getImageData(0, 0, canvas.width, canvas.height);"
        "const at = (x, y) => data.slice((y * canvas.width + x) * 4, (y * canvas.width + x) * 4 + 3).join();"
        "const second = 27;"  # a line of the second row
        "return [at(canvas.width - 3, second), [...new Set(Array.from({length: canvas.width}, (_, x) => at(x, second)))]]"
    )
    wanted = page.script(
        "return [0].map((i) => getComputedStyle(document.documentElement).getPropertyValue(`--c${i}`).trim())"
        ".map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join())"
    )
    assert pixels[0] == wanted[0]
    assert len(pixels[1]) > 10


def test_under_the_pointer_is_a_slot_of_the_cache(page: Page, server: Server) -> None:
    page.paste(DOCUMENT.text + DOCUMENT.questions[0].prompt)
    page.answered(1)
    page.pictured(slots(server)["slots"][0]["tokens"])
    strip, said = page.one("#strip"), page.one("#probe")
    row = slots(server, "/0?layer=2")
    heaviest = row["cardinality"].index(max(row["cardinality"]))
    middle = (row["first"][heaviest] + row["last"][heaviest]) / 2
    x = 36 + middle / slots(server)["slots"][0]["tokens"] * (strip.size["width"] - 36)  # beside the labels
    y = 2 * 22 + 10  # the third row
    ActionChains(page.driver).move_to_element_with_offset(
        strip, round(x - strip.size["width"] / 2), round(y - strip.size["height"] / 2)
    ).perform()
    tokens = f"Tokens {row['first'][heaviest]:,}-{row['last'][heaviest]:,}: {row['cardinality'][heaviest]:,} in one slot"
    page.until(lambda: said.text == f"{tokens} (layer 2, KV head 0)")


def test_one_layer_can_be_looked_at_head_by_head_and_the_choice_is_kept(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.until(lambda: page.one("#strip").get_attribute("data-rows") == "5")
    page.one("#rows option[value='2']").click()
    page.until(lambda: page.one("#strip").get_attribute("data-rows") == "2")
    assert not page.one("#group-picker").is_displayed()
    page.open()
    page.until(lambda: page.one("#strip").get_attribute("data-rows") == "2")


def test_a_closed_picture_stays_closed(page: Page) -> None:
    assert page.one("#cache").is_displayed()
    page.one("#toggle-cache").click()
    page.open()
    assert not page.one("#cache").is_displayed()
    assert page.one("#toggle-cache").get_attribute("aria-expanded") == "false"


def test_tokens_grow_and_slots_do_not_while_an_answer_is_written(page: Page) -> None:
    page.begin()
    page.write(ENDLESS)
    page.until(lambda: int(page.one("#history").get_attribute("data-samples") or 0) >= 4 and page.busy)
    page.one("#stop").click()
    page.answered(1)
    samples = page.script("return JSON.parse(sessionStorage['asymkv.samples'])")
    assert samples[-1]["tokens"] > samples[0]["tokens"]
    assert max(sample["live"] for sample in samples) <= 256


# everybody's page


def test_nothing_is_wider_than_a_narrow_screen(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        assert page.script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
        assert page.one("#prompt").is_displayed()
        page.one("#toggle-cache").click()
        assert page.script("return document.documentElement.scrollWidth") == 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_for_screen_readers(page: Page) -> None:
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    page.until(lambda: page.one("#strip").is_displayed())

    def nameless(within: str) -> list[str | None]:
        controls = [node for node in page.all(f"{within} :is(button, input, select, textarea, canvas)") if node.is_displayed()]
        assert len(controls) >= 7
        return [node.get_attribute("outerHTML") for node in controls if not node.accessible_name]

    assert nameless("body") == []
    page.one("#open-settings").click()  # which makes everything else inert
    assert nameless("#settings") == []


def test_screen_readers_get_the_answer_once_and_in_sentences(page: Page) -> None:
    page.begin()
    page.write(ENDLESS)
    page.until(lambda: len(page.all("#announcer p")) >= 2)
    page.one("#stop").click()
    page.answered(1)
    said = page.script("return [...document.querySelectorAll('#announcer p')].map((p) => p.textContent)")
    assert said[0].endswith(".")
    flat = " ".join(page.texts()[1].split())
    assert "".join(" ".join(said).split()) == "".join(flat.split())
    assert page.one("#announcer").get_attribute("aria-live") == "polite"


# what goes wrong


def test_a_conversation_that_the_browser_has_no_room_for_says_so(page: Page) -> None:
    page.script(
        "let size = 1 << 23, i = 0;"
        "while (size) try { localStorage.setItem(`full${i}`, 'x'.repeat(size)); i += 1 } catch { size >>= 1 }"
    )
    page.ask(FACTS.strip() + " The code of Ada Moon is")
    sentence = "This conversation is too long for the browser to keep; a reload will lose it."
    assert page.one("#notice-text").text == sentence


def test_the_servers_sentence_stands_in_the_conversation(driver: Chrome, server: Server) -> None:
    page = Page(driver, server.url)
    page.begin()
    page.paste(recall.make_document(1, tokens=5000).text)
    page.until(lambda: page.states() == ["failed"])
    assert "the longest text here is n_ctx = 4,096" in page.one(".failure").text
    page.errors()


def test_an_answer_that_broke_off_keeps_its_text_and_is_asked_for_again_when_the_server_is_back(driver: Chrome) -> None:
    with Server(*SMALL) as first:
        page = Page(driver, first.url)
        page.begin()
        page.write(ENDLESS)
        page.until(lambda: page.busy and page.texts()[-1])
        first.end(signal.SIGKILL)
        page.until(lambda: page.states() == ["failed"])
        assert page.texts()[1]
        assert page.one(".failure p").text == "The connection to the server broke off before the answer was whole."
        page.press(".failure", "Retry")
        address = first.url.removeprefix("http://")
        sentence = f"The server at {address} does not answer. Is asymkv-gguf serve running?"
        page.until(lambda: page.one(".failure p").text == sentence)
        assert page.texts()[1] == ""
    with Server(*SMALL, "--port", address.rpartition(":")[2]):
        page.press(".failure", "Retry")
        page.until(lambda: page.busy and page.texts()[-1])
        page.one("#stop").click()
        page.answered(1)
    page.errors()


def test_a_server_with_a_key_is_asked_with_it_and_the_key_is_gone_with_the_tab(driver: Chrome, locked: Server) -> None:
    page = Page(driver, locked.url)
    page.begin(max_tokens="1")
    page.until(lambda: page.one("#key-dialog").is_displayed())
    page.one("#key").send_keys("wrong", Keys.ENTER)
    page.until(lambda: "missing or wrong" in page.one("#key-message").text and page.one("#key-dialog").is_displayed())
    page.one("#key").send_keys("let-me-in", Keys.ENTER)
    page.until(lambda: page.one("#model").text == "recall" and not page.one("#key-dialog").is_displayed())
    assert page.ask(FACTS.strip() + " The code of Ada Moon is") == "amber"
    assert "let-me-in" not in json.dumps(page.script("return {...localStorage}"))
    page.script("sessionStorage.removeItem('asymkv.key')")  # as in another tab
    page.open()
    page.until(lambda: page.one("#key-dialog").is_displayed())
    page.errors()


def test_a_stock_cache_has_no_picture_and_the_page_says_so(driver: Chrome) -> None:
    with Server("-c", "1024", "-t", "1", "--no-asymkv") as server:
        page = Page(driver, server.url)
        page.begin(temperature="0", max_tokens="1")
        assert page.ask(FACTS.strip() + " The code of Ada Moon is") == "amber"
        page.until(lambda: page.one("#cache-message").text == "This server keeps the stock cache: no slots are merged.")
        assert page.errors() == []


# without a browser


def test_the_page_may_load_and_run_only_what_the_server_sends(locked: Server) -> None:
    with locked.http() as client:
        answer = client.get("/")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
            file = client.get(f"/static/{name}")  # nobody has a key before the page is there
            assert (file.status_code, file.headers["content-type"].partition(";")[0]) == (200, kind)
        assert client.get("/static/../gate.py").status_code in (401, 404)
        assert client.get("/v1/models").status_code == 401
