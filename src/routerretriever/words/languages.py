"""Guess in which language, and with which script, documents are written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

LANGUAGES = (
    "Arabic",
    "Danish",
    "Dutch",
    "English",
    "Finnish",
    "French",
    "German",
    "Greek",
    "Hungarian",
    "Italian",
    "Norwegian",
    "Portuguese",
    "Romanian",
    "Russian",
    "Spanish",
    "Swedish",
    "Tamil",
    "Turkish",
)
"""Languages whose words Lance can stem, and whose stop words it knows."""

NONE = "none"
"""No stemming and no stop words."""

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without spaces, for a regular expression: Thai, Lao, Burmese, Khmer; kana, and Han with its extensions."""

# The commonest words of each language that are rare in the others.
_COMMON = {
    "Danish": "og det er ikke jeg af til som der blev",
    "Dutch": "het een van niet zijn dat met voor wordt ook",
    "English": "the of and to is that with are this from",
    "Finnish": "ja on ei se että oli ovat myös mutta kuin",
    "French": "le les des est une dans pour qui pas sont",
    "German": "der die und das ist nicht ein den mit auch",
    "Hungarian": "az és hogy nem egy ez meg volt mint vagy",
    "Italian": "il di che è per una sono della con gli",
    "Norwegian": "og det ikke jeg av til som var på blir",
    "Portuguese": "o os que não uma para com são dos ao",
    "Romanian": "și în este nu cu pe din care sunt mai",
    "Spanish": "el los que de y en una las por con",
    "Swedish": "och att det är som en på inte av för",
    "Turkish": "ve bir bu için ile da çok olarak daha gibi",
}
_SCRIPTS = {
    "Arabic": re.compile("[\u0600-\u06ff]"),
    "Greek": re.compile("[\u0370-\u03ff]"),
    "Russian": re.compile("[\u0400-\u04ff]"),
    "Tamil": re.compile("[\u0b80-\u0bff]"),
}
_UNSPACED = re.compile(f"[{UNSPACED}]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")

_UNSPACED_SHARE = 0.1
_COMMON_SHARE = 0.05  # of all words; running text of the right language has two to four times as many


def lacks_spaces(texts: Iterable[str]) -> bool:
    """Return whether a tenth of the letters or more belong to scripts without spaces between words."""
    joined = "\n".join(texts)
    letters = len(_LETTER.findall(joined))
    return len(_UNSPACED.findall(joined)) > _UNSPACED_SHARE * max(1, letters)


def likely_language(texts: Iterable[str]) -> str:
    """Return the language of :data:`LANGUAGES` that texts are likely written in.

    English where nothing speaks for another: texts of names, code or keywords have no common
    words, and most of them are English. :data:`NONE` for scripts that no language here has.
    """
    joined = "\n".join(texts).lower()
    letters = max(1, len(_LETTER.findall(joined)))
    for language, script in _SCRIPTS.items():
        if 2 * len(script.findall(joined)) > letters:
            return language
    if 2 * len(_UNSPACED.findall(joined)) > letters:
        return NONE

    counts = Counter(_WORD.findall(joined))
    shares = {}
    for language, words in _COMMON.items():
        shares[language] = sum(counts[word] for word in words.split()) / max(1, counts.total())
    best = max(shares, key=lambda language: (shares[language], language == "English"))
    return best if shares[best] > _COMMON_SHARE else "English"
