"""The recipes for stores that need a server, run with their real clients against servers that only listen."""

import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from routerretriever import Document, RouterRetriever

PAGE = (Path(__file__).parents[2] / "docs" / "stores.md").read_text(encoding="utf-8")


def recipe(heading):
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL).group(1)


@pytest.fixture(scope="module")
def names(checkpoint):
    """What the first block of the page leaves behind."""
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    documents = [Document(f"d{k}", f"word{k} word{k + 1}") for k in range(6)]
    return {
        "model": model,
        "documents": documents,
        "vectors": model.embed_texts([document.content for document in documents]),
        "routed": model.encode_routed(["word3"]),
    }


@pytest.fixture
def listener():
    """A server of Elasticsearch's kind that answers what the clients need, and remembers what they sent."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length") or 0)
            lines = [json.loads(line) for line in self.rfile.read(length).splitlines() if line.strip()]
            heard.append((self.command, self.path.split("?")[0], lines))
            content = {"acknowledged": True, "version": {"number": "9.0.0"}}
            if self.path.startswith("/v1/"):  # of Weaviate
                content = {"version": "1.34.0", "class": "Docs"}
            if self.path.startswith("/_bulk") or "/_bulk" in self.path:
                items = [{"index": {"_id": line["index"]["_id"], "status": 201}} for line in lines[::2]]
                content = {"errors": False, "items": items}
            if "_search" in self.path:
                content = {"hits": {"hits": [{"_id": "d3", "_score": 0.9}]}}
            body = json.dumps(content).encode()
            self.send_response(404 if "openid" in self.path else 200)  # Weaviate without a login
            self.send_header("Content-Type", self.headers.get("Accept", "application/json").split(",")[0])
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = answer

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", heard
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "package"), [("Elasticsearch", "elasticsearch"), ("OpenSearch", "opensearchpy")]
)
def test_a_search_engine_gets_what_the_recipe_says(heading, package, names, listener, capsys):
    pytest.importorskip(package)
    address, heard = listener
    exec(compile(recipe(heading).replace("localhost:9200", address), "docs/stores.md", "exec"), dict(names))
    assert capsys.readouterr().out == "0.9 d3\n"

    created = next(body[0] for verb, path, body in heard if (verb, path) == ("PUT", "/docs"))
    properties = created["mappings"]["properties"]
    assert properties["vector"].get("dims", properties["vector"].get("dimension")) == 32
    assert created["mappings"]["_meta"] == {"base": names["model"].fingerprint}

    written = next(body for _, path, body in heard if path.endswith("_bulk"))
    assert [line["index"]["_id"] for line in written[::2]] == [f"d{k}" for k in range(6)]
    np.testing.assert_allclose([line["vector"] for line in written[1::2]], names["vectors"], rtol=1e-6)

    asked = next(body[0] for _, path, body in heard if path.endswith("_search"))
    sent = (
        asked["knn"]["query_vector"]
        if heading == "Elasticsearch"
        else asked["query"]["knn"]["vector"]["vector"]
    )
    np.testing.assert_allclose(sent, names["routed"].vectors[0], rtol=1e-6)


@pytest.mark.slow
def test_weaviate_gets_what_the_recipe_says(names, weaviate_listener, capsys):
    web, grpc_port, heard = weaviate_listener
    host, port = web.split(":")
    code = (
        recipe("Weaviate")
        .replace("port=8080", f"port={port}")
        .replace("50051", f"{grpc_port}, skip_init_checks=True")
    )
    exec(compile(code.replace('"localhost"', f'"{host}"'), "docs/stores.md", "exec"), dict(names))
    assert capsys.readouterr().out == "0.25 d3\n"
    created = next(
        body[0] for verb, path, body in web_requests(heard) if path == "/v1/schema" and verb == "POST"
    )
    assert (created["class"], created["description"]) == ("Docs", names["model"].fingerprint)
    assert created["vectorConfig"]["default"]["vectorIndexConfig"]["distance"] == "cosine"

    written = [item for kind, request in grpc_requests(heard) if kind == "batch" for item in request.objects]
    assert [item.properties.non_ref_properties["document"] for item in written] == [f"d{k}" for k in range(6)]
    sent = [np.frombuffer(item.vector_bytes or item.vectors[0].vector_bytes, "<f4") for item in written]
    np.testing.assert_allclose(sent, names["vectors"], rtol=1e-6)

    (asked,) = [request for kind, request in grpc_requests(heard) if kind == "search"]
    near = asked.near_vector
    packed = near.vector_bytes or near.vectors[0].vector_bytes
    np.testing.assert_allclose(np.frombuffer(packed, "<f4"), names["routed"].vectors[0], rtol=1e-6)
    assert asked.limit == 3


def web_requests(heard):
    return [item for item in heard if len(item) == 3]


def grpc_requests(heard):
    return [item for item in heard if len(item) == 2]


@pytest.fixture
def weaviate_listener(listener):
    """Weaviate's two ports: the listener for HTTP, and one for gRPC."""
    pytest.importorskip("weaviate")
    import grpc
    from grpc_health.v1 import health, health_pb2_grpc
    from weaviate.proto.v1 import batch_pb2, search_get_pb2, weaviate_pb2_grpc

    address, heard = listener

    class Servicer(weaviate_pb2_grpc.WeaviateServicer):
        def BatchObjects(self, request, context):
            heard.append(("batch", request))
            return batch_pb2.BatchObjectsReply(took=0.1)

        def Search(self, request, context):
            heard.append(("search", request))
            reply = search_get_pb2.SearchReply()
            result = reply.results.add()
            result.metadata.id = "00000000-0000-0000-0000-000000000003"
            result.metadata.distance, result.metadata.distance_present = 0.25, True
            result.properties.non_ref_props.fields["document"].text_value = "d3"
            return reply

    server = grpc.server(futures.ThreadPoolExecutor(2))
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(Servicer(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield address, port, heard
    server.stop(None).wait()
