"""Every framework's retriever searches as the index does by default, and in another mode where asked."""

import pytest

QUERY = "word3 word5"


def langchain(index, **options):
    from routerretriever.integrations.langchain import RoutedRetriever

    return [document.id for document in RoutedRetriever(index=index, k=5, **options).invoke(QUERY)]


def llama_index(index, **options):
    from routerretriever.integrations.llama_index import RoutedRetriever

    return [found.node.node_id for found in RoutedRetriever(index, k=5, **options).retrieve(QUERY)]


def haystack(index, **options):
    from routerretriever.integrations.haystack import RoutedRetriever

    answer = RoutedRetriever(index, top_k=5, **options).run(QUERY)
    return [document.id for document in answer["documents"]]


@pytest.mark.parametrize("retrieve", [langchain, llama_index, haystack])
@pytest.mark.parametrize("mode", [None, "vector", "text"])
def test_a_mode_is_that_of_the_index(index, retrieve, mode):
    options = {} if mode is None else {"mode": mode}
    assert retrieve(index, **options) == [hit.id for hit in index.search(QUERY, 5, mode=mode)]
