"""The helper that looks at pages notices what is wrong with one."""

import pytest
from browser import Browser

HEAD = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Damaged</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def look(browser, tmp_path):
    def look(body):
        (tmp_path / "page.html").write_text(HEAD + body, "utf-8")
        return browser.open(tmp_path / "page.html", width=360)

    return look


def test_good_page_has_nothing_wrong(look, tmp_path):
    page = look(
        '<p>words</p><div tabindex="0" style="overflow-x: auto"><p style="width: 900px">wide</div>'
        '<svg viewBox="0 0 9 9"><rect width="9" height="9"/></svg>'
    )
    assert page.errors() == page.cut_off() == page.pale_words() == []
    assert ("paragraph", "") in page.spoken()
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "script",
    [
        "console.error('no')",
        "console.log('no')",
        "nowhere()",
        "fetch('http://127.0.0.1:9/x').catch(() => 0)",
        "document.body.append(Object.assign(new Image(), {src: 'gone.png'}))",
    ],
)
def test_noise_and_fetches_are_errors(look, script):
    page = look(f"<body><script>{script}</script>")
    page.evaluate("1")
    assert page.errors()


@pytest.mark.parametrize(
    "body",
    [
        '<div style="width: 400px">wide</div>',
        '<div style="overflow: hidden"><p style="width: 400px">wide</div>',
        '<div style="overflow-x: auto"><p style="width: 400px">no keyboard scrolls it</div>',
        '<p style="margin-left: -30px">words</p>',
        '<svg viewBox="0 0 90 90"><text x="80" y="50">long words</text></svg>',
    ],
)
def test_what_is_cut_off_is_found(look, body):
    assert look(body).cut_off()


def test_pale_words_are_found(look):
    page = look(
        '<p style="color: #888">one</p><p style="background: #333; color: #777">two</p>'
        '<svg viewBox="0 0 90 90"><text y="50" fill="#999">three</text></svg><p>four</p>'
    )
    assert page.pale_words() == ["one", "two", "three"]
