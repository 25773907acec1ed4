"""Read the options of a PEFT adapter by a list of what is understood.

An option of ``adapter_config.json`` has no effect on the vectors, or is applied as PEFT applies
it, or is refused by name. So is an option that is not listed here, unless it is unset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routerretriever.errors import ExpertError
from routerretriever.validation import first_fault


class _Applied(BaseModel):
    """Options that are applied as PEFT applies them; PEFT itself does not check their types."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    r: int = Field(8, ge=1)
    lora_alpha: float = 8
    use_rslora: bool = False
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None


_APPLIED = tuple(_Applied.model_fields)
_WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",  # compared with the model's base where an expert is added
    "eva_config",  # of an initialisation that leaves the base as it is
    "fan_in_fan_out",  # PEFT ignores it for linear layers
    "inference_mode",
    "lora_dropout",  # of training alone
    "megatron_core",  # the name of a package, which only megatron_config uses
    "peft_version",
    "qalora_group_size",  # only use_qalora uses it
    "revision",
    "runtime_config",
    "task_type",
)
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    # Other initialisations change the weights of the base as well.
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva"),
}
_UNSET: tuple[Any, ...] = (None, False, "", [], {})


class PeftOptions:
    """The options of one adapter that decide what its factors do.

    Args:
        config: content of ``adapter_config.json``.
        path: of that file, for messages.

    Raises:
        ExpertError: an option is set that experts cannot have, or PEFT refuses the options.
    """

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        check_options(config, path)
        self._path = path
        try:
            applied = _Applied.model_validate(dict(config))
        except ValidationError as error:
            option, given, reason = first_fault(error)
            raise ExpertError(
                f"{path}: {option}={given} cannot be used ({reason}). Export the adapter again."
            ) from error
        try:
            self._config = LoraConfig(**applied.model_dump(exclude_none=True))
        except (TypeError, ValueError) as error:
            raise ExpertError(f"{path} cannot be used by PEFT: {error}") from error

    def scaling(self, module: str, rank: int) -> float:
        """Return what PEFT multiplies the delta of a module by.

        Args:
            module: its name in the model that PEFT trained.
            rank: of its factors.

        Raises:
            ExpertError: the options do not say that the module has factors of this rank.
        """
        config = self._config
        ranks: dict[str, int] = config.rank_pattern or {}
        alphas: dict[str, int] = config.alpha_pattern or {}
        try:
            targeted = self._is_targeted(module)
            rank_key = get_pattern_key(list(ranks), module)
            alpha_key = get_pattern_key(list(alphas), module)
        except re.error as error:
            raise ExpertError(
                f"{self._path} has a pattern that is no regular expression ({error})."
            ) from error

        expected = ranks.get(rank_key, config.r)
        if not targeted or rank != expected:
            wanted = "that it has none"
            if targeted:
                wanted = f"rank {expected} for it"
            raise ExpertError(
                f"The adapter has factors of rank {rank} for '{module}', but {self._path} says "
                f"{wanted}. Export the adapter again."
            )
        alpha = float(alphas.get(alpha_key, config.lora_alpha))
        if config.use_rslora:
            return alpha / math.sqrt(rank)
        return alpha / rank

    def _is_targeted(self, module: str) -> bool:
        # PEFT looks up what these two mean in the model, and then saves the names themselves.
        if self._config.target_modules in (None, "all-linear"):
            return True
        return bool(check_target_module_exists(self._config, module))


def check_options(config: Mapping[str, Any], path: Path) -> None:
    """Refuse options whose effect is more than LoRA factors of linear layers.

    Raises:
        ExpertError: names the option.
    """
    for key, value in config.items():
        if key in _APPLIED or key in _WITHOUT_EFFECT or value in _VALUES.get(key, _UNSET):
            continue
        raise ExpertError(
            f"{path}: {key}={value!r} is not supported. An expert is plain LoRA on linear layers of "
            f"an unchanged base: train the adapter without {key}."
        )
    if config.get("peft_type") != "LORA":
        raise ExpertError(f"{path} names no peft_type. Export the adapter again with PEFT.")
