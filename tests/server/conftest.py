"""A real browser for the tests of the page."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """Opens an address; at the end no other host was asked and the console is empty."""
    contexts, foreign, complaints = [], [], []

    def opened(client, path="/", complaining=False, before=None, **settings):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a browser, a server, and other tests beside them
        page.on(
            "request",
            lambda r: foreign.append(r.url) if not r.url.startswith((str(client.base_url), "data:")) else 0,
        )
        if not complaining:
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
        if before:
            before(page)
        page.goto(f"{client.base_url}{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not foreign and not complaints
