"""PDF files."""

from __future__ import annotations

import io

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from routerretriever.files.content import Builder, Content, UnreadableFileError

_SIGNATURE_WITHIN = 1024  # bytes, as readers of PDF allow


def read_pdf(data: bytes) -> Content:
    """Return the text of all pages; a scanned page has none."""
    if b"%PDF-" not in data[:_SIGNATURE_WITHIN]:
        raise UnreadableFileError("it is not a PDF file, whatever its name says.")
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFileError("it is encrypted. Save it without a password.")
        builder = Builder()
        for number, page in enumerate(reader.pages, start=1):
            builder.page(number)
            for paragraph in page.extract_text().split("\n\n"):
                builder.add(paragraph)
        title = (reader.metadata.title if reader.metadata else None) or ""
    except (PyPdfError, NotImplementedError) as error:
        raise UnreadableFileError(f"it is damaged or truncated ({error}).") from error
    try:
        return builder.content(str(title))
    except UnreadableFileError as error:
        message = "it holds no text. Scanned pages need optical character recognition first."
        raise UnreadableFileError(message) from error
