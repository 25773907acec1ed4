"""Query-time engine without torch: the base as ONNX graphs, experts and routing as arrays beside them."""
