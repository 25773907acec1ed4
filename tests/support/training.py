"""Settings with which tests train."""

from routerretriever import TrainingConfig

QUICK = TrainingConfig(
    epochs=10, batch_size=16, learning_rate=1e-2, temperature=0.1, rank=4, patience=100, adapter_weights=()
)
