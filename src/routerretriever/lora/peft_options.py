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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routerretriever.errors import ExpertError
from routerretriever.extras import of_training
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
        self._options = applied
        self._is_listed = _targets_are_listed(applied)
        if not self._is_listed:
            self._peft = _peft_config(applied, path)

    def scaling(self, module: str, rank: int) -> float:
        """Return what PEFT multiplies the delta of a module by.

        Args:
            module: its name in the model that PEFT trained.
            rank: of its factors.

        Raises:
            ExpertError: the options do not say that the module has factors of this rank.
        """
        options = self._options
        try:
            targeted = self._is_targeted(module)
            expected = _by_pattern(options.rank_pattern, module, options.r)
            alpha = _by_pattern(options.alpha_pattern, module, options.lora_alpha)
        except re.error as error:
            raise ExpertError(
                f"{self._path} has a pattern that is no regular expression ({error})."
            ) from error

        if not targeted or rank != expected:
            wanted = "that it has none"
            if targeted:
                wanted = f"rank {expected} for it"
            raise ExpertError(
                f"The adapter has factors of rank {rank} for '{module}', but {self._path} says "
                f"{wanted}. Export the adapter again."
            )
        if options.use_rslora:
            return float(alpha) / math.sqrt(rank)
        return float(alpha) / rank

    def _is_targeted(self, module: str) -> bool:
        targets = self._options.target_modules
        # PEFT looks up what these two mean in the model, and then saves the names themselves.
        if targets in (None, "all-linear"):
            return True
        if not self._is_listed:
            from peft.tuners.tuners_utils import check_target_module_exists

            return bool(check_target_module_exists(self._peft, module))
        assert targets is not None
        return any(module == target or module.endswith(f".{target}") for target in targets)


def _targets_are_listed(options: _Applied) -> bool:
    """Return whether the modules are given by names alone, which needs none of PEFT's rules."""
    if options.exclude_modules or options.layers_to_transform is not None or options.layers_pattern:
        return False
    return not isinstance(options.target_modules, str) or options.target_modules == "all-linear"


def _peft_config(options: _Applied, path: Path) -> Any:
    """Return PEFT's own configuration."""
    with of_training():
        from peft import LoraConfig
    try:
        return LoraConfig(**options.model_dump(exclude_none=True))
    except (TypeError, ValueError) as error:
        raise ExpertError(f"{path} cannot be used by PEFT: {error}") from error


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """Return the value of the first pattern that ends a module's name, as PEFT looks it up."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


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
