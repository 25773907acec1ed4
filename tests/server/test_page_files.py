"""Files on the page: what is in the index, uploads, deletion, and links to where a result is."""

from dataclasses import replace

import pytest
from playwright.sync_api import expect
from serving import ADMIN_KEY, running, wait_until_ready

from routerretriever import Index, RouterRetriever
from routerretriever.server import Settings

LONG = "# Travel\n\n" + "word1 word2 word3. " * 40 + "\n\n## Hotels\n\nzap cord lamp\n"
FILES = [
    {"name": "travel.md", "mimeType": "text/markdown", "buffer": LONG.encode()},
    {"name": "picture.png", "mimeType": "image/png", "buffer": b"\x89PNG"},
]
DROP = """(text) => {
  const data = new DataTransfer();
  data.items.add(new File([text], "dropped.txt", {type: "text/plain"}));
  window.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture
def empty(checkpoint, tmp_path):
    """A server of a model without experts, of a folder with one file, and of an index without documents."""
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    model.save_pretrained(tmp_path / "model")
    Index.create(tmp_path / "index", model)
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "leave.md").write_text("# Leave\n\ntide word9", encoding="utf-8")
    settings = Settings(
        model=tmp_path / "model",
        index=str(tmp_path / "index"),
        files=tmp_path / "handbook",
        admin_keys=(ADMIN_KEY,),
    )
    with running(settings) as client:
        yield wait_until_ready(client), Index.open(tmp_path / "index", model), tmp_path / "handbook"


def test_from_an_empty_page_to_a_result(empty, open_page):
    client, index, folder = empty
    page = open_page(client, f"/#key={ADMIN_KEY}")
    page.wait_for_selector("#first:not([hidden])")
    assert ADMIN_KEY not in page.url
    page.set_input_files("#chosen-files", FILES)
    expect(page.locator("#outcomes li")).to_have_count(2)
    assert "not indexed: nothing here reads" in page.inner_text("#outcomes li:nth-child(2)")
    expect(page.locator("#held-counts")).to_contain_text("1 document, ")
    expect(page.locator("#first")).to_be_hidden()
    assert not page.is_visible("#route")

    page.fill("#query", "zap cord")
    page.keyboard.press("Enter")
    page.wait_for_selector("#routed-results > li[data-id='travel.md']")
    assert page.locator("#routed-results mark").all_inner_texts() == ["zap", "cord"]
    assert "Hotels" in page.inner_text("#routed-results .source")
    assert page.locator("#routed-results h3 a").count() == 0  # only its text was kept

    page.evaluate(DROP, "word7 word8")
    page.wait_for_selector("#held li[data-id='dropped.txt']")
    page.click("#held li[data-id='dropped.txt'] .delete")
    page.click("#held li[data-id='dropped.txt'] .delete")
    expect(page.locator("#held li")).to_have_count(1)
    assert len(index) == 1

    index.add(folder)
    page.reload()
    link = page.locator("#held li[data-id='leave.md'] a")
    expect(link).to_have_attribute("href", "/files/leave.md")
    assert page.locator("#held li[data-id='leave.md'] .delete").count() == 0
    with page.expect_download() as found:  # the page asks with its key
        link.click()
    assert found.value.suggested_filename == "leave.md"


def test_without_a_key_the_page_only_reads(own, open_page):
    with running(replace(own, api_keys=())) as client:
        wait_until_ready(client)
        page = open_page(client)
        page.wait_for_selector("#held > li")
        assert page.is_visible("#read-only") and not page.is_visible("#drop")
        assert page.locator("#held .delete").count() == 0
        page.click("#held-more")
        expect(page.locator("#held > li")).to_have_count(40)
