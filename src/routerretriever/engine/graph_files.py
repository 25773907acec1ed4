"""How the graphs of an engine are written."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def write_optimised(raw: Path, target: Path) -> None:
    """Let ONNX Runtime remove what a graph does not need, and put its weights into ``NAME.bin`` beside it.

    Weights in a file of their own are read by pages, so that of the vectors of words only those that are
    asked for take memory.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    weights = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{weights}_file_name", f"{target.stem}.bin")
    options.add_session_config_entry(f"{weights}_min_size_in_bytes", "256")
    onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
