"""Guesses of language and script."""

import pytest

from routerretriever.words.languages import LANGUAGES, lacks_spaces, likely_language
from routerretriever.words.text_index import TextSettings

SENTENCES = {
    "Arabic": "القط يجلس على السجادة في البيت",
    "Dutch": "De kat ligt op het kleed en dat is niet van een hond",
    "English": "The cat is on the mat, and that is from the house of a dog",
    "French": "Le chat est sur le tapis dans la maison et les chiens sont pour une fois calmes",
    "German": "Die Katze liegt auf dem Teppich und der Hund ist nicht mit ihr im Haus",
    "Italian": "Il gatto è sul tappeto della casa con gli altri che sono per una volta calmi",
    "Portuguese": "O gato não está com os cães que são para uma casa",
    "Russian": "Кошка сидит на ковре в доме",
    "Spanish": "El gato está en la alfombra de una casa y los perros son por una vez",
    "Swedish": "Katten är på mattan och det är inte för en hund som bor i ett hus",
    "Turkish": "Kedi ve köpek için bir ev daha çok bu olarak",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_running_text_is_recognised(language):
    assert likely_language([SENTENCES[language]] * 3) == language
    assert language in LANGUAGES
    assert not lacks_spaces([SENTENCES[language]])


@pytest.mark.parametrize("text", ["", "tar -xf archive.tar", "payment gateway invoice", "1234 5678"])
def test_english_where_nothing_speaks_for_another(text):
    assert likely_language([text]) == "English"


@pytest.mark.parametrize("text", ["東京都に住んでいます", "我喜欢搜索引擎", "ภาษาไทยง่ายนิดเดียว"])
def test_scripts_without_spaces_get_a_tokenizer_that_finds_words(text):
    chosen = TextSettings().chosen_for([text])
    assert (chosen.tokenizer, chosen.language) == ("icu", "none")
