"""A small retrieval task of MTEB, made of a collection in memory."""


def retrieval_task(collection, name):
    """The test split of ``collection`` as a task called ``name``."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Task(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name,
            description="Made for a test.",
            dataset={"path": "local", "revision": "1"},
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args, **kwargs):
            split = collection.split("test")
            rows = [{"id": d.id, "text": d.text, "title": d.title} for d in collection.documents]
            data = {
                "corpus": Dataset.from_list(rows),
                "queries": Dataset.from_list([{"id": q, "text": t} for q, t in split.queries.items()]),
                "relevant_docs": {q: dict(g) for q, g in split.qrels.items()},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": data}}
            self.data_loaded = True

    return Task()
