"""Files as teams have them, made on the spot."""

import io
import zipfile

import docx
import pptx
from pypdf import PdfReader, PdfWriter


def pdf(*pages, title=""):
    """A PDF with a line of text on each page, written by hand."""
    writer = PdfWriter()
    for text in pages:
        writer.append(PdfReader(io.BytesIO(_one_page(text))))
    if title:
        writer.add_metadata({"/Title": title})
    return _written(writer)


def encrypted_pdf(text):
    writer = PdfWriter(clone_from=io.BytesIO(_one_page(text)))
    writer.encrypt("secret", algorithm="RC4-128")
    return _written(writer)


def _written(writer):
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _one_page(text):
    stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        out
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
        + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(out))
    )


def word(*blocks):
    """A Word file of (style, text); a list of lists is a table."""
    document = docx.Document()
    for style, text in blocks:
        if style == "table":
            table = document.add_table(rows=0, cols=len(text[0]))
            for row in text:
                for cell, value in zip(table.add_row().cells, row, strict=True):
                    cell.text = value
        else:
            document.add_paragraph(text, style=style)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def slides(*texts):
    """A PowerPoint file of (title, body)."""
    presentation = pptx.Presentation()
    for title, body in texts:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = body
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


def bomb(size):
    """A Word file that unpacks to so many bytes."""
    out = io.BytesIO(word(("Normal", "small")))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/zeros.bin", b"\0" * size)
    return out.getvalue()


def laughs():
    """A Word file whose XML defines entities of entities."""
    lines = ["<!ENTITY a0 'ha'>"]
    lines += [f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12)]
    body = f"<?xml version='1.0'?><!DOCTYPE w [{''.join(lines)}]>"
    body += "<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'>"
    body += "<w:body><w:p><w:r><w:t>&a11;</w:t></w:r></w:p></w:body></w:document>"
    source, out = io.BytesIO(word(("Normal", "small"))), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, body if name == "word/document.xml" else old.read(name))
    return out.getvalue()


MAIL = """From: Ann <ann@example.org>
To: Bob <bob@example.org>
Subject: The =?utf-8?q?B=C3=BCro?= moves
Date: Mon, 1 Jan 2024 10:00:00 +0000
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/html; charset=utf-8

<p>We move on <b>Monday</b>.</p><script>alert(1)</script>
--x
Content-Type: application/pdf; name="../../plan.pdf"
Content-Disposition: attachment; filename="../../plan.pdf"

--x--
"""
