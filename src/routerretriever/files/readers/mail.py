"""E-mail."""

from __future__ import annotations

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

from routerretriever.files.content import Builder, Content, UnreadableFileError
from routerretriever.files.readers.html import content_of_html

_SHOWN = ("From", "To", "Date")


def read_mail(data: bytes) -> Content:
    """Return sender, receiver, date and text of a message; attachments are named and not read."""
    message = message_from_bytes(data, policy=default)
    if not isinstance(message, EmailMessage) or not (message["From"] or message["Subject"]):
        raise UnreadableFileError("it is not an e-mail, whatever its name says.")
    builder = Builder()
    builder.add("\n".join(f"{name}: {message[name]}" for name in _SHOWN if message[name]))
    body = message.get_body(("plain", "html"))
    if body is not None:
        text = str(body.get_content())
        if body.get_content_subtype() == "html":
            text = content_of_html(text).text
        for paragraph in text.replace("\r\n", "\n").split("\n\n"):
            builder.add(paragraph)
    names = [part.get_filename() for part in message.iter_attachments()]
    if any(names):
        builder.add("Attachments: " + ", ".join(name for name in names if name))
    return builder.content(str(message["Subject"] or ""))
