"""Settings with which tests train."""

from routerretriever import TrainingConfig
from routerretriever.experts.training_config import TrainedKinds

QUICK = TrainingConfig(
    kind=TrainedKinds.LORA,
    epochs=10,
    batch_size=16,
    learning_rate=1e-2,
    temperature=0.1,
    rank=4,
    patience=100,
    adapter_weights=(),
    anchor=0.0,  # so tiny a base has too little room to learn queries and leave other texts alone
)
