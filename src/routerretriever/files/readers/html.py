"""HTML pages."""

from __future__ import annotations

from selectolax.lexbor import LexborHTMLParser

from routerretriever.files.content import Builder, Content
from routerretriever.files.readers.plain import decoded

_UNREAD = ["script", "style", "noscript", "template", "svg", "iframe", "object", "nav", "head"]
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = {
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "footer",
    "form", "header", "hr", "li", "main", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul", *_HEADINGS,
}  # fmt: skip


def read_html(data: bytes) -> Content:
    """Return the text of a page without scripts, styles and menus."""
    return content_of_html(decoded(data))


def content_of_html(source: str) -> Content:
    """Return the text of HTML; scripts are never run."""
    tree = LexborHTMLParser(source)
    found = tree.css_first("title")
    title = found.text() if found is not None else ""
    tree.strip_tags(_UNREAD)

    builder = Builder()
    root = tree.body or tree.root
    words: list[str] = []
    level = 0  # of the heading that is being read; 0 outside of headings

    def end_block() -> None:
        text = " ".join("".join(words).split())
        words.clear()
        if level:
            builder.heading(text, level)
        else:
            builder.add(text)

    inside: list[int] = []  # identities of the elements that the present heading is in
    for node in [] if root is None else root.traverse(include_text=True):
        if inside and not _is_below(node, inside[-1]):
            end_block()
            level = 0
            inside.clear()
        if node.tag == "-text":
            words.append(node.text_content or "")
            continue
        if node.tag in _BLOCKS:
            end_block()
        if node.tag in _HEADINGS:
            level = _HEADINGS[node.tag]
            inside.append(node.mem_id)
    end_block()
    return builder.content(title)


def _is_below(node: object, mem_id: int) -> bool:
    above = getattr(node, "parent", None)
    while above is not None:
        if above.mem_id == mem_id:
            return True
        above = above.parent
    return False
